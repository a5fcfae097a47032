"""Batches by length hold each sequence once, and the bounds of padded batches."""

import pytest
import state_space as world
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.data import ByLength

LENGTHS = (3, 8, 1, 8, 5, 2, 4)
MASK = world.masked(*LENGTHS)
X = world.sequences(MASK)


def test_each_sequence_is_in_one_batch_which_ends_with_its_longest():
    rows, steps = torch.arange(7.0).unsqueeze(1), torch.randn(7, 8, 2)
    batches = list(ByLength(X, steps, rows, MASK, batch_size=3))
    assert sorted(len(x) for x, *_ in batches) == [1, 3, 3]
    met = torch.cat([number for *_, number, _ in batches]).flatten().long()
    assert sorted(met.tolist()) == list(range(7))
    for x, of_steps, number, mask in batches:
        of, longest = number.flatten().long(), int(mask.sum(1).max())
        assert mask.shape[1] == longest
        for value, whole in ((x, X), (of_steps, steps), (mask, MASK)):
            assert torch.equal(value, whole[of, :longest])
    spans = sorted((int(mask.sum(1).min()), int(mask.sum(1).max())) for *_, mask in batches)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_batches_have_few_lengths_each_of_which_holds_its_sequences():
    """One graph of the step each: ten batches of 2 to 20 steps have the lengths of five pairs."""
    mask = world.masked(*range(1, 21))
    batches = list(ByLength(mask.unsqueeze(2).float(), mask, batch_size=2))
    assert sorted(steps.shape[1] for _, steps in batches) == sorted([4, 8, 12, 16, 20] * 2)
    assert sum(int(steps.sum()) for _, steps in batches) == 210


def test_sequences_of_one_length_meet_others_in_another_iteration():
    batches = ByLength(X[[1, 3] * 4], MASK[[1, 3] * 4], batch_size=4)

    def first(seed):
        with pv.seeded(seed):
            return next(iter(batches))[0]

    assert torch.equal(first(0), first(0))
    assert len({tuple(first(seed).flatten().tolist()) for seed in range(5)}) > 1


def test_the_bounds_of_an_iteration_are_those_of_padded_data():
    """With the exact smoother as guide, the ELBO of each sequence is Kalman's log p(x)."""
    elbo = Trace_ELBO(max_plate_nesting=1)
    pair = (world.model, world.exact_guide)
    found = -sum(elbo.loss(*pair, *batch) for batch in ByLength(X, MASK, batch_size=2))
    assert found == pytest.approx(world.log_evidence(X, MASK).sum().item(), rel=1e-9)


def test_a_training_by_length_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    def trained(epochs, *, resume=None):
        with pv.seeded(0):
            vae = pv.VAE(
                pv.priors.Markov(pv.nets.MLP(1, 4, 2), 1),
                pv.likelihoods.EachStep(pv.likelihoods.Normal(pv.nets.MLP(1, 3))),
                pv.guides.Combiner(pv.nets.BackwardGRU(3, 4), pv.nets.MLP(5, 2), 1),
            )
        data = ByLength(X.float(), MASK, batch_size=2)
        step, folder = pv.Step(compile=False), [pv.Checkpoint(tmp_path / f"{epochs}")]
        pv.fit(vae, data, epochs=epochs, step=step, callbacks=folder, resume=resume)
        return nn.utils.parameters_to_vector(vae.parameters())

    whole = trained(4)
    first = trained(2)
    assert not torch.equal(whole, first)
    (tmp_path / "2").rename(tmp_path / "4b")
    assert torch.equal(trained(4, resume=tmp_path / "4b"), whole)


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ((), r"got the shapes \[\(7, 8, 3\)\], a last one of torch.float64"),
        ((MASK.float(),), "a last one of torch.float32"),
        ((MASK[:, :5],), r"\(7, 5\)"),
        ((torch.ones(6, 1), MASK), r"as many rows; got \[6, 7\]"),
        ((~MASK,), "sequence 0 has no step, or a step after padding: move"),
    ],
    ids=["no mask", "floats", "shorter", "rows", "gap"],
)
def test_what_are_no_sequences_is_refused(context, said):
    with pytest.raises(ValueError, match=said):
        ByLength(X, *context, batch_size=2)
