"""Texts become tokens and come back; what is no text, token or record is refused."""

import json
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import pyrovae as pv
from pyrovae.data import Vocabulary, read_texts
from pyrovae.runs import Run

PETS = ["a cat sleeps", "a dog barks", "the cat barks"]
BLANK = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_characters_come_back(texts):
    if not any(texts):
        return
    vocabulary = Vocabulary.of(texts, unit="character")
    x, mask = vocabulary.encode(texts)
    assert vocabulary.decode(x) == texts
    assert mask.sum(1).tolist() == [len(text) + 1 for text in texts]
    assert torch.equal(vocabulary.mask(x), mask)


def test_words_come_back_without_the_blanks_around_them():
    vocabulary = Vocabulary.of(PETS)
    assert vocabulary.tokens == ("a", "barks", "cat", "dog", "sleeps", "the")
    x, _ = vocabulary.encode([f"  a{BLANK}cat ", "", *PETS])
    assert vocabulary.decode(x) == ["a cat", "", *PETS]
    assert vocabulary.decode(x.squeeze(-1).long()) == ["a cat", "", *PETS]


def test_the_most_frequent_words_are_kept():
    texts = ["b b b", "c c", "a a", "d"]
    vocabulary = Vocabulary.of(texts, size=2)
    assert vocabulary.tokens == ("b", "a"), "of equal ones the first of the alphabet"
    x, _ = vocabulary.encode(["b c d a"])
    assert x.flatten().tolist() == [2, 1, 1, 3, 0]
    assert vocabulary.decode(x) == ["b <unk> <unk> a"]
    counts = Counter(" ".join(texts).split())
    assert vocabulary.unknown(texts) == (counts["c"] + counts["d"]) / counts.total()
    assert vocabulary.unknown([""]) != vocabulary.unknown([""]), "NaN: there is no word"


def test_a_text_is_over_at_its_first_end():
    vocabulary = Vocabulary.of(PETS)
    x = torch.tensor([[4.0, 0.0, 3.0], [0.0, 4.0, 4.0], [4.0, 4.0, 4.0]])
    assert vocabulary.decode(x) == ["cat", "", "cat cat cat"]
    assert vocabulary.mask(x).sum(1).tolist() == [2, 1, 3]


def test_a_vocabulary_is_saved_with_a_run(tmp_path):
    vocabulary = Vocabulary.of(PETS, unit="character", size=5)
    vae = pv.mlp_vae(4, latents=1, hidden=2)
    pv.save(vae, tmp_path, vocabulary=vocabulary.record)
    record = json.loads((tmp_path / "config.json").read_text())["vocabulary"]
    assert Vocabulary.from_record(record) == vocabulary
    assert Vocabulary.from_record(Run(tmp_path).config["vocabulary"]) == vocabulary


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record | {"version": 9}, "version 1; got 9"),
        (lambda record: [*record], "version 1; got 'list'"),
        (lambda record: record | {"tokens": [1]}, "damaged.*`str`"),
        (lambda record: record | {"unit": "verse"}, "damaged.*verse"),
        (lambda record: record | {"tokens": ["a", "a"]}, "'a' twice"),
        (lambda record: record | {"tokens": ["a b"]}, "by itself; got 'a b'"),
        (lambda record: record | {"tokens": []}, "got none"),
        (lambda record: record | {"more": 1}, "damaged.*more"),
    ],
    ids=["version", "kind", "number", "unit", "twice", "two", "none", "more"],
)
def test_a_damaged_record_is_refused(change, said):
    record = Vocabulary.of(PETS).record
    assert Vocabulary.from_record(record).tokens
    with pytest.raises(ValueError, match=said):
        Vocabulary.from_record(change(record))


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: Vocabulary.of("a cat"), "a list of strings; got one string"),
        (lambda: Vocabulary.of(["a", None]), "got NoneType at place 1"),
        (lambda: Vocabulary.of([" "]), "one or more words.*got none"),
        (lambda: Vocabulary.of(PETS, unit="verse"), "unit is 'word'.*got 'verse'"),
        (lambda: Vocabulary.of(PETS, size=0), "size=0"),
        (lambda: Vocabulary.of(PETS).encode([]), "at least one sequence"),
        (lambda: Vocabulary.of(PETS).decode(torch.tensor([[0.0, 2.5]])), "0 to 7; got 2.5: draw"),
        (lambda: Vocabulary.of(PETS).decode(torch.tensor([[8]])), "0 to 7; got 8"),
        (lambda: Vocabulary.of(PETS).mask(torch.tensor([[-1]])), "0 to 7; got -1"),
        (lambda: Vocabulary.of(PETS).decode(torch.zeros(2, 3, 2)), r"shape \(2, 3, 2\)"),
    ],
    ids=["string", "None", "blank", "unit", "size", "empty", "mean", "above", "below", "shape"],
)
def test_what_is_no_text_or_token_is_refused(attempt, said):
    with pytest.raises(ValueError, match=said):
        attempt()


def test_a_file_has_a_text_in_each_line(tmp_path):
    path = tmp_path / "pets.txt"
    path.write_text("a cat\r\n\n  \nä dog ", encoding="utf-8", newline="")
    assert read_texts(path) == ["a cat", "ä dog "]


@pytest.mark.parametrize(("name", "line"), [("a.txt", "a cat"), ("a.jsonl", '"a cat"')])
def test_a_mark_of_the_byte_order_is_no_text(name, line, tmp_path):
    (tmp_path / name).write_text(f"{line}\n{line}\n", encoding="utf-8-sig")
    assert read_texts(tmp_path / name) == ["a cat", "a cat"]


def test_json_lines_hold_strings_or_objects(tmp_path):
    path = tmp_path / "pets.jsonl"
    lines = ['"a cat"', "", json.dumps({"text": "a\ndog", "n": 1})]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_texts(path, key="text") == ["a cat", "a\ndog"]


@pytest.mark.parametrize(
    ("name", "content", "key", "said"),
    [
        ("a.jsonl", b'"a"\n{', None, "a.jsonl, line 2: no JSON"),
        ("a.jsonl", b'{"text": "a"}', None, "line 1: expected a string; got dict: give key=NAME"),
        ("a.jsonl", b'{"text": "a"}', "words", "no key 'words'; there are text"),
        ("a.jsonl", b'{"text": 3}', "text", "expected a string; got int"),
        ("a.txt", b"\xff\xfe", None, "not in UTF-8"),
        ("a.txt", b"a", "text", "a key is of JSON records"),
    ],
    ids=["json", "object", "key", "number", "bytes", "lines"],
)
def test_a_file_without_texts_is_refused(name, content, key, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_texts(path, key=key)
