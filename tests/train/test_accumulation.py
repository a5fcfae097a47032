"""A step of several batches is the step of one batch of all their data."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv

SIZE = 6

STILL = 1e-15
"""A learning rate at which nothing is learned up to rounding."""


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()


class Linear(torch.nn.Module):
    """An encoder to a point, and a decoder: nothing is random."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = torch.nn.Linear(SIZE, 2), torch.nn.Linear(2, SIZE)


def pair(size=None):
    both = Linear()

    def model(x):
        pyro.module("both", both)
        with pyro.plate("data", size or len(x), subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(both.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("both", both)
        with pyro.plate("data", size or len(x), subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Delta(both.encoder(x), event_dim=1))

    return both, (model, guide)


def trained(
    x, *, batch_size, accumulate, size=None, clip_norm=None, compile=False, lr=1e-3
):  # fmt: skip
    pyro.clear_param_store()
    both, target = pair(size)
    optim = pv.Optim(torch.optim.SGD, lr=lr, momentum=0.5)
    step = pv.Step(
        optim, loss=pyro.infer.Trace_ELBO(), accumulate=accumulate, clip_norm=clip_norm,
        compile=compile,
    )  # fmt: skip
    steps = []

    class Note(pv.Callback):
        def stepped(self, training):
            steps.append((training.step, training.batches, training.loss))

    # Batches in a fixed order, each of whole data.
    batches = list(x.split(batch_size))
    history = pv.fit(target, batches, epochs=3, step=step, callbacks=[Note()])
    return torch.cat([p.detach().flatten() for p in both.parameters()]), history, steps


X = torch.randn(60, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("size", [None, 60], ids=["summed", "scaled to all data"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("compile", [False, True])
def test_n_batches_make_the_step_of_one_batch_of_all_their_data(
    size, clip_norm, compile, interpreted
):
    options = {"size": size, "clip_norm": clip_norm}
    wanted, history, steps = trained(X, batch_size=30, accumulate=1, **options)
    found, again, others = trained(X, batch_size=10, accumulate=3, compile=compile, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert again.column("loss") == pytest.approx(history.column("loss"), rel=1e-10)
    assert [step[:2] for step in others] == [step[:2] for step in steps]
    assert [step[2] for step in others] == pytest.approx([step[2] for step in steps], rel=1e-10)


@pytest.mark.parametrize("size", [None, 60], ids=["summed", "scaled to all data"])
def test_batches_of_different_sizes_count_by_their_data(size):
    """Batches of 22, 22 and 16 make one step of 60."""
    wanted, _, steps = trained(X, batch_size=60, accumulate=1, size=size)
    found, _, others = trained(X, batch_size=22, accumulate=4, size=size)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert len(steps) == len(others) == 3


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    _, _, steps = trained(X, batch_size=10, accumulate=4)
    assert [step[:2] for step in steps] == [(i, 2) for i in range(1, 7)]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("batch_size", [10, 22])
def test_the_loss_is_per_datum_if_the_programs_scale_it_to_all_data(batch_size, accumulate):
    """The loss of a step without learning is that of the programs without a scale."""
    options = {"batch_size": batch_size, "accumulate": accumulate}
    _, history, steps = trained(X, lr=STILL, **options)
    _, again, others = trained(X, size=600, lr=STILL, **options)
    assert [step[2] for step in others] == pytest.approx([step[2] for step in steps], rel=1e-10)
    assert again.column("loss") == pytest.approx(history.column("loss"), rel=1e-10)
    elbo = [-epoch.elbo for epoch in again.epochs]
    assert again.column("loss") == pytest.approx(elbo, rel=1e-10)


def test_the_loss_is_per_datum_if_programs_take_batches_of_one_size_alone():
    both, (model, guide) = pair(60)

    def of_ten(program):
        def checked(x):
            if len(x) != 10:
                raise ValueError(f"ten data; got {len(x)}")
            program(x)

        return checked

    optim = pv.Optim(torch.optim.SGD, lr=STILL)
    step = pv.Step(optim, loss=pyro.infer.Trace_ELBO())
    target = of_ten(model), of_ten(guide)
    history = pv.fit(target, list(X.split(10)), epochs=1, step=step, callbacks=[])
    assert history.epochs[0].loss == pytest.approx(-history.epochs[0].elbo, rel=1e-6)


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_step_takes_a_batch(number):
    with pytest.raises(ValueError, match=f"one batch or more; got accumulate={number}"):
        pv.Step(accumulate=number)
