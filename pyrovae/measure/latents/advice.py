"""An error whose remedy is a call in Python, and an option on the command line."""

from __future__ import annotations

__all__ = ["Advised"]


class Advised(ValueError):  # noqa: N818
    """A refusal that says what to do, as Python in its text and as options beside it.

    Args:
        what: what was met and what was wanted.
        python: what to do in Python.
        options: what to do on the command line; "" if nothing there helps.

    Attributes:
        in_options: the message for the command line.

    Example:
        >>> from pyrovae.measure.latents.advice import Advised
        >>> refused = Advised("no plane", python="dimensions=(a, b)", options="--dimensions a b")
        >>> str(refused), refused.in_options
        ('no plane: dimensions=(a, b)', 'no plane: --dimensions a b')
    """

    def __init__(self, what: str, *, python: str, options: str = "") -> None:
        super().__init__(f"{what}: {python}")
        self.in_options = f"{what}: {options}" if options else what
