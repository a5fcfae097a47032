"""Run a command that has to fail."""

from pyrovae.cli import main


def complaint(capsys, *argv, code=2) -> str:
    """Return its only line on stderr."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyrovae: error: ")
    return line
