"""Files of sequences: x has zeros at padding, and the mask of the steps is the last context."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.data.content import Content
from pyrovae.runs.sources import Source

LENGTHS = torch.tensor([3, 1, 4, 2, 4, 2, 1, 3, 4, 2])
MASK = torch.arange(4) < LENGTHS.unsqueeze(1)
X = torch.arange(10 * 4 * 2.0).reshape(10, 4, 2) % 7 + 0.5
TEXTS = [f"the {pet} {verb}" for pet in ("cat", "dog", "owl") for verb in ("sleeps", "barks")] * 2


@pytest.fixture
def saved(tmp_path):
    def save(name="steps.npz", **arrays):
        np.savez(tmp_path / name, **{key: np.asarray(value) for key, value in arrays.items()})
        return tmp_path / name

    return save


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "pets.txt"
    path.write_text("\n".join(TEXTS) + "\n\n")
    return path


@pytest.mark.parametrize("padding", [0.0, -5.0, float("nan")])
def test_arrays_with_a_mask_are_sequences_whatever_their_padding(saved, padding):
    x = X.masked_fill(~MASK.unsqueeze(-1), padding)
    names = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    path = saved(x=x, mask=MASK, pitch=torch.arange(10), set=names)
    data = pv.data.load(path, labels="pitch", split="set")
    assert (data.shape, data.domain) == ((4, 2), constraints.real)
    for split, rows in zip(
        data.splits.values(), (slice(6), slice(6, 8), slice(8, 10)), strict=True
    ):
        torch.testing.assert_close(split.x, X[rows] * MASK[rows].unsqueeze(-1), rtol=0, atol=0)
        (mask,) = split.context
        assert torch.equal(mask, MASK[rows])
        assert torch.equal(split.labels, torch.arange(10)[rows])


@pytest.mark.parametrize(
    ("x", "domain"),
    [
        ((X > 3).numpy(), constraints.boolean),
        ((X > 3).byte().numpy(), constraints.boolean),
        (X.long().numpy(), constraints.nonnegative_integer),
        (X.numpy(), constraints.real),
    ],
    ids=["bool", "uint8", "counts", "floats"],
)
def test_the_steps_say_what_their_values_are(saved, x, domain):
    data = pv.data.load(saved(x=x, mask=MASK.long()))
    assert data.domain is domain
    assert data.train.x.dtype == torch.float32


def test_the_files_of_torch_hold_sequences_too(tmp_path):
    torch.save({"notes": X, "mask": MASK}, tmp_path / "steps.pt")
    assert pv.data.load(tmp_path / "steps.pt").shape == (4, 2)
    torch.save({"notes": X, "more": X, "mask": MASK}, tmp_path / "more.pt")
    data = pv.data.load(tmp_path / "more.pt", key="notes")
    assert data.train.context[0].dtype == torch.bool


def test_series_have_their_classes_as_labels(tmp_path):
    path = tmp_path / "waves.ts"
    path.write_text("@classLabel true a b\n@data\n" + "1,2,3:4,5,6:b\n7.5:8:a\n" * 5)
    data = pv.data.load(path, fractions=(0.6, 0.2, 0.2))
    assert data.shape == (3, 2)
    short = data.train.labels == 0
    assert torch.equal(data.train.context[0].sum(1), torch.where(short, 1, 3))
    assert data.train.x[short][:, 0].unique(dim=0).tolist() == [[7.5, 8.0]]


def test_texts_are_coded_by_the_words_of_the_training_texts(texts):
    names = ["train" if "owl" not in text else "test" for text in TEXTS]
    data = pv.data.load(texts, split=names)
    assert set(data.vocabulary.tokens) == {"the", "cat", "dog", "sleeps", "barks"}
    assert (data.shape, data.domain.upper_bound) == ((4, 1), len(data.vocabulary) - 1)
    assert data.vocabulary.decode(data.test.x) == ["the <unk> sleeps", "the <unk> barks"] * 2
    assert data.test.context[0].all(), "three words and the end"
    again = pv.data.load(texts, **data.reading.record)
    assert again.vocabulary == data.vocabulary
    letters = pv.data.load(texts, vocabulary={"unit": "character", "size": 9}).vocabulary
    assert (letters.unit, len(letters)) == ("character", 9 + 2)


def test_texts_of_json_are_under_a_key(tmp_path):
    path = tmp_path / "pets.jsonl"
    path.write_text("".join(json.dumps({"say": text}) + "\n" for text in TEXTS))
    data = pv.data.load(path, key="say")
    said = [text for split in data.splits.values() for text in data.vocabulary.decode(split.x)]
    assert sorted(said) == sorted(TEXTS)


def test_another_file_is_read_by_the_same_vocabulary_and_may_be_longer(texts, tmp_path):
    source = Source(str(texts))
    data = source.read_data()
    source = source.of(data)
    other = tmp_path / "other.txt"
    other.write_text("the cat sleeps and sleeps and barks\n")
    longer = Source.read(json.loads(json.dumps(source.record))).given(str(other)).read_data()
    assert longer.vocabulary == data.vocabulary
    assert longer.vocabulary.decode(longer.test.x) == ["the cat sleeps <unk> sleeps <unk> barks"]
    assert longer.shape == (8, 1)


def test_another_width_of_the_data_is_refused(saved):
    source = Source(str(saved(x=X, mask=MASK)), shape=(9, 3))
    with pytest.raises(ValueError, match=r"trained on data of \(9, 3\).* has data of \(4, 2\)"):
        source.read_data()


def test_training_sequences_are_known_again_at_any_padding(saved):
    data = pv.data.load(saved(x=X, mask=MASK))
    content = Content.of(data)
    x, (mask,) = data.train.x, data.train.context
    wider = torch.nn.functional.pad(x, (0, 0, 0, 3))
    steps = torch.nn.functional.pad(mask, (0, 3))
    overlap = content.overlap(replace(data.train, x=wider, context=(steps,)))
    assert (overlap.found, overlap.checked) == (8, 8)
    assert content.overlap(replace(data.train, x=wider - 100, context=(steps,))).found == 0


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"x": X}, {}, r"sequences \[N, T, D\] have an array mask"),
        ({"x": X, "mask": 2 * MASK}, {}, "is True or 1 at a step"),
        (
            {"x": X, "mask": MASK & False},
            {},
            "no step, .* in 10 of 10 sequences, the first at row 0",
        ),
        ({"x": X.log().where(X > 1, torch.nan), "mask": MASK}, {}, "NaN or infinite values"),
        ({"x": X, "mask": MASK}, {"shape": (1, 4, 2)}, "the option shape is of images"),
        ({"x": X, "mask": MASK}, {"vocabulary": {}}, "a vocabulary is of texts"),
    ],
    ids=["no mask", "twos", "no step", "gaps", "shape", "vocabulary"],
)
def test_what_are_no_sequences_is_refused(saved, arrays, options, said):
    with pytest.raises(ValueError, match=said):
        pv.data.load(saved(**arrays), **options)


def test_options_that_texts_and_series_do_not_have_are_refused(texts, tmp_path):
    with pytest.raises(ValueError, match="texts alone, and has no column 'site'"):
        pv.data.load(texts, labels="site")
    with pytest.raises(ValueError, match="invalid enum value 'letter', at `unit`"):
        pv.data.load(texts, vocabulary={"unit": "letter"})
    path = tmp_path / "waves.ts"
    path.write_text("@data\n1,2\n")
    with pytest.raises(ValueError, match="and no column 'level'"):
        pv.data.load(path, key="level")
