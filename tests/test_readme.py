"""What the README shows runs, in its order, as one program."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
SMALLER = {
    "epochs=20": "epochs=1",
    "particles=1000": "particles=20",
    "temperatures=200, limit=32": "temperatures=5, limit=4",
    "limit=32, steps=200": "limit=4, steps=2",
    "IWAE(50": "IWAE(2",
}


def test_its_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    text = README.read_text()
    for shown, smaller in SMALLER.items():
        assert shown in text
        text = text.replace(shown, smaller)
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(blocks) == 8
    assert (tmp_path / "bounds.png").stat().st_size > 0
    assert "this - first, paired, 297 data" in capsys.readouterr().out
