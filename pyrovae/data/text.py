"""Text as sequences of tokens: a vocabulary codes strings as x and a mask, and decodes x.

A vocabulary is plain JSON, and is saved with a run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
import torch
from torch import Tensor

from pyrovae.data.reading import Contents, NoColumn, Reading
from pyrovae.data.sequences import pad

__all__ = ["Vocabulary", "read_lines", "read_texts", "vocabulary_of"]

VERSION: Final = 1
"""The version of a vocabulary's record."""

END: Final = 0
"""The token after the last one of a text."""

UNKNOWN: Final = 1
"""The token of all words that the vocabulary lacks."""

SHOWN: Final = "<unk>"
"""How an unknown word is decoded."""


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words or characters of texts, numbered from 2; 0 is the end, and 1 any unknown one.

    Words are what whitespace separates. A text becomes its tokens and the end, so that the length
    is part of what is modeled; the end is also the padding. A vocabulary with a `size` gives rare
    words the same token, whose probability is that of any of them: perplexities of two
    vocabularies are not comparable.

    Attributes:
        tokens: the words or characters, from the most frequent one.
        unit: "word" or "character".

    Raises:
        ValueError: if there is no token, one stands twice, or is no single word or character.

    Example:
        >>> from pyrovae.data import Vocabulary
        >>> texts = ["a cat sleeps", "a dog barks"]
        >>> vocabulary = Vocabulary.of(texts)
        >>> vocabulary.tokens, len(vocabulary)
        (('a', 'barks', 'cat', 'dog', 'sleeps'), 7)
        >>> x, mask = vocabulary.encode([*texts, "a bird"])
        >>> x.squeeze(-1), mask[2]
        (tensor([[2., 4., 6., 0.],
                [2., 5., 3., 0.],
                [2., 1., 0., 0.]]), tensor([ True,  True,  True, False]))
        >>> vocabulary.decode(x)
        ['a cat sleeps', 'a dog barks', 'a <unk>']
    """

    tokens: tuple[str, ...]
    unit: Literal["word", "character"] = "word"

    def __post_init__(self) -> None:
        """Check the tokens."""
        twice = [token for token, count in Counter(self.tokens).items() if count > 1]
        odd = [token for token in self.tokens if _split(token, self.unit) != [token]]
        if twice or odd or not self.tokens:
            met = f"{twice[0]!r} twice" if twice else repr(odd[0]) if odd else "none"
            raise ValueError(
                f"a vocabulary has one or more {self.unit}s, each once and by itself; got {met}"
            )

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        *,
        unit: Literal["word", "character"] = "word",
        size: int | None = None,
    ) -> Self:
        """Return the vocabulary of texts, such as the training set.

        Args:
            texts: the texts.
            unit: "word" or "character".
            size: the number of words to keep, the most frequent ones; None keeps all.

        Raises:
            ValueError: if the texts have no word, or the unit or the size is none.
        """
        if unit not in ("word", "character") or (size is not None and size < 1):
            raise ValueError(
                f"unit is 'word' or 'character', and size 1 or more; got {unit!r}, size={size}"
            )
        counts = Counter(token for text in _checked(texts) for token in _split(text, unit))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(tuple(ranked[:size]), unit)

    def __len__(self) -> int:
        """Return the number of tokens with the end and the unknown one, the classes of x."""
        return len(self.tokens) + 2

    @property
    def end(self) -> int:
        """The token at the end of a text, 0."""
        return END

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Return x [N, T, 1] and the mask [N, T], which counts the end of each text.

        Raises:
            ValueError: if there is no text, or one is no string.

        Example:
            >>> from pyrovae.data import Vocabulary
            >>> Vocabulary.of(["ab"], unit="character").encode(["ba"])[0].flatten()
            tensor([3., 2., 0.])
        """
        numbers = {token: number for number, token in enumerate(self.tokens, UNKNOWN + 1)}
        dtype = torch.get_default_dtype()
        rows = [
            [*(numbers.get(token, UNKNOWN) for token in _split(text, self.unit)), END]
            for text in _checked(texts)
        ]
        return pad(torch.tensor(row, dtype=dtype).unsqueeze(-1) for row in rows)

    def decode(self, x: Tensor) -> list[str]:
        """Return the texts of tokens [N, T, 1] or [N, T], each up to its first end.

        Raises:
            ValueError: if x has another shape, or a value is no token.
        """
        rows = self._rows(x)
        shown = [SHOWN, *self.tokens]
        between = " " if self.unit == "word" else ""
        return [
            between.join(shown[token - 1] for token in row[kept].tolist())
            for row, kept in zip(rows, self.mask(x) & (rows != END), strict=True)
        ]

    def mask(self, x: Tensor) -> Tensor:
        """Return the mask [N, T] of tokens, up to and with the first end, as of drawn texts.

        Raises:
            ValueError: as `decode`.

        Example:
            >>> import torch
            >>> from pyrovae.data import Vocabulary
            >>> Vocabulary.of(["a"]).mask(torch.tensor([[2, 0, 2], [2, 2, 2]]))
            tensor([[ True,  True, False],
                    [ True,  True,  True]])
        """
        ends = self._rows(x) == END
        return ends.cumsum(1) - ends.int() == 0

    def unknown(self, texts: Iterable[str]) -> float:
        """Return the share of the words that the vocabulary lacks; NaN if there is no word.

        Raises:
            ValueError: if a text is no string.

        Example:
            >>> from pyrovae.data import Vocabulary
            >>> Vocabulary.of(["a cat"]).unknown(["a dog"])
            0.5
        """
        known = set(self.tokens)
        words = [token for text in _checked(texts) for token in _split(text, self.unit)]
        return sum(word not in known for word in words) / len(words) if words else float("nan")

    @property
    def record(self) -> dict[str, Any]:
        """The JSON record, for `pv.save(vae, folder, vocabulary=vocabulary.record)`."""
        return {"version": VERSION, "tokens": [*self.tokens], "unit": self.unit}

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Return the vocabulary of a record, such as `Run(folder).config["vocabulary"]`.

        Raises:
            ValueError: if the record is damaged, or has another version.

        Example:
            >>> import json
            >>> from pyrovae.data import Vocabulary
            >>> vocabulary = Vocabulary.of(["a cat"])
            >>> Vocabulary.from_record(json.loads(json.dumps(vocabulary.record))) == vocabulary
            True
        """
        if not isinstance(record, dict) or record.get("version") != VERSION:
            met = record.get("version") if isinstance(record, dict) else type(record).__name__
            raise ValueError(
                f"expected the record of a vocabulary, version {VERSION}; got {met!r}"
            )
        content = {name: value for name, value in record.items() if name != "version"}
        try:
            return msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"the record of the vocabulary is damaged: {error}") from error

    def _rows(self, x: Tensor) -> Tensor:
        """Return tokens [N, T], as integers."""
        rows = x.squeeze(-1) if x.ndim == 3 and x.shape[-1] == 1 else x
        if rows.ndim != 2:
            raise ValueError(f"expected tokens [N, T, 1] or [N, T]; got shape {tuple(x.shape)}")
        bad = (rows != rows.round()) | (rows < 0) | (rows >= len(self))
        if bad.any():
            raise ValueError(
                f"tokens are whole numbers from 0 to {len(self) - 1}; got "
                f"{rows[bad][0].item():g}: draw x, since a mean of tokens is no token"
            )
        return rows.long()


def _split(text: str, unit: str) -> list[str]:
    return text.split() if unit == "word" else [*text]


def _checked(texts: Iterable[str]) -> Sequence[str]:
    """Return texts as a list.

    Raises:
        ValueError: if they are one string, or one of them is none.
    """
    found = [] if isinstance(texts, str) else [*texts]
    odd = next((n for n, text in enumerate(found) if not isinstance(text, str)), None)
    if isinstance(texts, str) or odd is not None:
        met = "one string" if odd is None else f"{type(found[odd]).__name__} at place {odd}"
        raise ValueError(f"expected a list of strings; got {met}")
    return found


def read_texts(path: str | Path, *, key: str | None = None) -> list[str]:
    r"""Return the texts of a file: one in each line, or in each JSON record of .jsonl.

    Lines without a text are left out.

    Args:
        path: a file in UTF-8. One that ends in .jsonl or .ndjson has a string, or an object with
            the text under `key`, in each line.
        key: the name of the text in an object.

    Raises:
        ValueError: if a line is no JSON, or has no string where the text should be; the message
            names the line.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pyrovae.data import read_texts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "pets.jsonl"
        ...     _ = path.write_text('{"text": "a cat"}\n{"text": "a dog"}\n')
        ...     read_texts(path, key="text")
        ['a cat', 'a dog']
    """
    path = Path(path).expanduser()
    records = path.suffix.lower() in (".jsonl", ".ndjson")
    if key is not None and not records:
        raise ValueError(f"a key is of JSON records (.jsonl); {path.name} has lines of text")
    texts = []
    with path.open(encoding="utf-8-sig") as file:  # A mark of the byte order is no text.
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    own = _text_of(line, key, f"{path.name}, line {number}") if records else line
                    texts.append(own.rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not in UTF-8: {error}") from error
    return [text for text in texts if text]


def read_lines(path: Path, reading: Reading) -> Contents:
    """Read a file of texts, one a line; `key` names the text in a JSON record.

    Raises:
        ValueError: if an option asks for more than the texts, and as `read_texts`.
    """
    asked = reading.asked()
    if asked:
        message = f"{path.name} is read as texts alone, and has no column {asked[0]!r}"
        raise NoColumn(asked[0], message)
    return Contents(texts=read_texts(path, key=reading.one_key))


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a vocabulary."""

    unit: Literal["word", "character"] = "word"
    size: Annotated[int, msgspec.Meta(ge=1)] | None = None


def vocabulary_of(asked: Mapping[str, Any] | None, texts: Iterable[str]) -> Vocabulary:
    """Return the vocabulary of a record, or make that of texts by the options unit and size.

    Raises:
        ValueError: naming the option that is unknown or has the wrong type, and as
            `Vocabulary.of` and `Vocabulary.from_record`.

    Example:
        >>> vocabulary_of({"unit": "character", "size": 2}, ["abba"]).tokens
        ('a', 'b')
        >>> vocabulary_of({"units": "word"}, ["abba"])
        Traceback (most recent call last):
        ValueError: how the vocabulary is made: object contains unknown field `units`: there are...
    """
    if asked is not None and "tokens" in asked:
        return Vocabulary.from_record(asked)
    try:
        options = msgspec.convert(dict(asked or {}), _Asked)
    except msgspec.ValidationError as error:
        what = str(error).replace(" - at `$.", ", at `")
        raise ValueError(
            f"how the vocabulary is made: {what[0].lower()}{what[1:]}: there are unit, "
            "'word' or 'character', and size"
        ) from None
    return Vocabulary.of(texts, unit=options.unit, size=options.size)


def _text_of(line: str, key: str | None, where: str) -> str:
    """Return the text of a line of JSON."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if key is not None and isinstance(found, dict):
        if key not in found:
            raise ValueError(f"{where}: no key {key!r}; there are {', '.join(found) or 'none'}")
        found = found[key]
    if not isinstance(found, str):
        hint = ": give key=NAME" if isinstance(found, dict) and key is None else ""
        raise ValueError(f"{where}: expected a string; got {type(found).__name__}{hint}")
    return found
