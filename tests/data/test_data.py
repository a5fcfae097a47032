"""Data sets, batches, binarization and the domains that likelihoods check."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import constraints
from torch.utils.data import Dataset, TensorDataset

from pyrovae import data
from pyrovae.data.batches import Batches
from pyrovae.data.datasets import Split, load
from pyrovae.data.domains import check_domain
from pyrovae.randomness import seeded


def test_a_seeded_block_repeats_and_leaves_the_generator_as_it_was():
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    with seeded(0):
        first = torch.rand(2)
    with seeded(0):
        second = torch.rand(2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(torch.rand(2), wanted, rtol=0, atol=0)


def test_without_a_seed_a_block_draws_from_the_generator_as_it_stands():
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    with seeded(None):
        torch.testing.assert_close(torch.rand(2), wanted, rtol=0, atol=0)


def test_a_block_that_raises_gives_the_generator_back():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_the_splits_of_the_digits_are_every_digit_once():
    digits = load("digits", binarization=None)
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1203, 297, 297]
    found = torch.cat([torch.cat([s.x * 16, s.labels.unsqueeze(1)], 1) for s in splits])
    pixels, labels = load_digits(return_X_y=True)
    wanted = torch.cat([torch.tensor(pixels), torch.tensor(labels).unsqueeze(1)], 1).float()
    assert sorted(found.tolist()) == sorted(wanted.tolist())
    assert digits.shape == (1, 8, 8)
    for split in splits:
        assert split.x.dtype == torch.float32
        assert set(split.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("binarization", "domain"),
    [
        ("dynamic", constraints.boolean),
        ("static", constraints.boolean),
        (None, constraints.unit_interval),
    ],
)
def test_what_a_split_draws_lies_in_the_domain(binarization, domain):
    digits = load(binarization=binarization)
    assert digits.domain is domain
    for split in (digits.train, digits.validation, digits.test):
        check_domain(split.draw(), digits.domain, "digits")
        assert split.dynamic is (binarization == "dynamic")
    assert (digits.train.draw().unique().numel() > 2) is (binarization is None)


def test_static_binarization_is_always_the_same_and_dynamic_is_drawn_afresh():
    torch.manual_seed(1)
    one = load(binarization="static").train
    torch.manual_seed(2)
    assert torch.equal(one.draw(), load(binarization="static").train.draw())
    split = load(binarization="dynamic").train
    first, second = (torch.cat([x for (x,) in Batches(split, 100)]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(split.draw(), split.draw())
    assert not torch.equal(split.draw(), split.draw(seed=3))


def test_loading_draws_nothing_from_the_generator():
    before = torch.get_rng_state()
    for binarization in ("dynamic", "static", None):
        load(binarization=binarization)
    load().train.draw(seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pixel_is_one_with_its_intensity_as_probability():
    p = torch.tensor([0.0, 0.2, 0.7, 1.0])
    split = Split(p.repeat(20_000, 1), torch.zeros(20_000).long(), dynamic=True)
    error = (p * (1 - p) / 20_000).sqrt()
    assert ((split.draw().mean(0) - p).abs() <= 4 * error).all()
    (batch,) = next(iter(Batches(split, 20_000)))
    assert ((batch.mean(0) - p).abs() <= 4 * error).all()
    assert not torch.equal(batch, next(iter(Batches(split, 20_000)))[0])


class Rows(Dataset):
    """Five rows, each with a label."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((2,), float(index)), torch.tensor(float(index))


X, LABELS = torch.arange(5.0).unsqueeze(1).repeat(1, 2), torch.arange(5.0)
KINDS = {
    "a tensor": (lambda: X, 1),
    "a tuple": (lambda: (X, LABELS), 2),
    "a split": (lambda: Split(X, LABELS.long()), 1),
    "a tensor dataset": (lambda: TensorDataset(X, LABELS), 2),
    "a dataset": (Rows, 2),
    "batches": (lambda: list(zip(X.split(2), LABELS.split(2), strict=True)), 2),
    "batches of x alone": (lambda: list(X.split(2)), 1),
}


@pytest.mark.parametrize(("make", "members"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("walks", [1, 2])
def test_every_kind_of_data_is_walked_in_order_to_a_last_batch_of_one(make, members, walks):
    batches = Batches(make(), 2)
    assert len(batches) == 3
    for _ in range(walks):
        found = list(batches)
        assert [len(batch) for batch in found] == [members] * 3
        assert [len(batch[0]) for batch in found] == [2, 2, 1]
        assert torch.equal(torch.cat([batch[0] for batch in found]), X)
        if members == 2:
            assert torch.equal(torch.cat([batch[1] for batch in found]), LABELS)


SHUFFLED = {name: KINDS[name] for name in ("a tensor", "a tuple", "a split", "a dataset")}


@pytest.mark.parametrize(("make", "members"), SHUFFLED.values(), ids=SHUFFLED.keys())
def test_shuffling_keeps_rows_whole_and_draws_a_new_order_each_time(make, members):
    batches, orders = Batches(make(), 2, shuffle=True), set()
    for _ in range(5):
        found = list(batches)
        x = torch.cat([batch[0] for batch in found])
        assert sorted(x.tolist()) == X.tolist()
        if members == 2:
            assert torch.equal(torch.cat([batch[1] for batch in found]), x[:, 0])
        orders.add(tuple(x[:, 0].tolist()))
    # Five draws of 120 orders are all the same with a probability of 5e-9.
    assert len(orders) > 1


def test_a_batch_larger_than_the_data_is_the_data():
    ((x,),) = Batches(X, 100)
    assert torch.equal(x, X)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"at least one datum; got batch_size={batch_size}"):
        Batches(X, batch_size)


@pytest.mark.parametrize("empty", [torch.zeros(0, 3), (torch.zeros(0, 3), torch.zeros(0)), ()])
def test_empty_data_are_refused(empty):
    with pytest.raises(ValueError, match="data are empty: x needs at least one row"):
        Batches(empty, 2)


def test_members_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"one row per datum; got shapes \[\(5, 2\), \(4,\)"):
        Batches((X, LABELS[:4]), 2)


@pytest.mark.parametrize(("spent", "name"), [(iter([X]), "list_iterator"), (3, "int")])
def test_data_that_cannot_be_walked_twice_are_refused(spent, name):
    with pytest.raises(ValueError, match=f"got {name}. Put an iterator in a list"):
        Batches(spent, 2)


@pytest.mark.parametrize(
    ("value", "domain", "message"),
    [
        (0.5, constraints.boolean, "0 or 1; got 0.5 at row 1. Binarize grayscale pixels"),
        (2.0, constraints.unit_interval, r"in \[0, 1\]; got 2 at row 1. Divide the pixels by 255"),
        (1.5, constraints.nonnegative_integer, "counts .*; got 1.5 at row 1. Round or rescale"),
        (-1.0, constraints.nonnegative_integer, "counts .*; got -1 at row 1"),
        (math.nan, constraints.real, "finite real numbers; got nan at row 1. Drop or mask"),
        (math.inf, constraints.real, "finite real numbers; got inf at row 1. Drop or mask"),
        (-1.0, constraints.positive, "in GreaterThan.*; got -1 at row 1. Choose another likel"),
    ],
)
def test_a_value_outside_the_domain_is_named_with_its_row(value, domain, message):
    x = torch.ones(3, 2)
    check_domain(x, domain, "Owner")
    x[1, 1] = value
    with pytest.raises(ValueError, match=f"Owner takes values that are {message}"):
        check_domain(x, domain, "Owner")


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError, match="unknown data set 'cifar': did you mean cifar10\\? there are digits"
    ):
        load("cifar")
    with pytest.raises(ValueError, match="'dynamic', 'static' or None; got 'both'"):
        load("digits", binarization="both")


def test_mnist_asks_for_its_folder():
    with pytest.raises(
        ValueError, match="'mnist' needs a root.*load.'mnist', root='data'.*--root"
    ):
        data.load("mnist")


@pytest.mark.parametrize(("make", "members"), SHUFFLED.values(), ids=SHUFFLED.keys())
def test_batches_in_order_are_the_same_data_in_another_size(make, members):
    shuffled = Batches(make(), 2, shuffle=True)
    again = shuffled.in_order(3)
    assert (len(again), len(shuffled)) == (2, 3)
    assert [batch[0].tolist() for batch in again] == [X[:3].tolist(), X[3:].tolist()]
    assert sum(len(batch) for batch in again) == 2 * members


def test_batches_in_order_share_their_memory():
    whole = Batches(X, 2)
    assert whole.in_order(3).tensors[0].data_ptr() == whole.tensors[0].data_ptr()
