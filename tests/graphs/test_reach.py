"""Programs that hold objects of other libraries train and are measured as Pyro does it."""

import warnings

import anndata
import numpy as np
import pandas
import polars
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import adam
from pyro.infer import Trace_ELBO
from sklearn.preprocessing import StandardScaler

import pyrovae as pv
from pyrovae.graphs.reach import MOST, Reach
from pyrovae.train.svi import SVI

pytestmark = pytest.mark.usefixtures("interpreted")

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(7))


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


class Refusing:
    """An object whose attributes are no one's business."""

    w = 2.0

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} here")

    __dict__ = property(lambda self: 1 / 0)


def programs(number):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), number()).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    return model, guide


def losses(kind, make, steps=8):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    number, change = make()
    svi = kind(*programs(number), adam(), Trace_ELBO())
    found = []
    for i in range(steps):
        if i == 5:
            change()
        found.append(svi.step(X))
    return found, svi


def a_scaler():
    scaler = StandardScaler().fit([[1.0], [2.0]])
    return lambda: float(scaler.scale_[0]), lambda: scaler.fit([[1.0], [9.0]])


def a_scaler_changed_in_place():
    scaler = StandardScaler().fit([[1.0], [2.0]])
    return lambda: float(scaler.scale_[0]), lambda: scaler.scale_.__setitem__(0, 3.0)


def a_frame_of_pandas():
    frame = pandas.DataFrame({"w": [1.0, 2.0]})
    return lambda: float(frame["w"].sum()), lambda: frame.loc.__setitem__((0, "w"), 9.0)


def a_frame_of_polars():
    held = {"frame": polars.DataFrame({"w": [1.0, 2.0]})}
    more = polars.DataFrame({"w": [9.0, 2.0]})
    return lambda: float(held["frame"]["w"].sum()), lambda: held.update(frame=more)


@pytest.mark.parametrize(
    "make", [a_scaler, a_scaler_changed_in_place, a_frame_of_pandas, a_frame_of_polars]
)
def test_what_a_library_holds_is_guarded(make):
    wanted, _ = losses(pyro.infer.SVI, make)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found, svi = losses(SVI, make)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert svi.compiled
    assert svi._graphs


def counts_of_cells():
    cells = anndata.AnnData(np.ones((4, 3), "float32"))
    return lambda: float(cells.X[0, 0]), None


@pytest.mark.parametrize("make", [a_scaler, a_frame_of_pandas, a_frame_of_polars, counts_of_cells])
def test_a_library_leaves_room_for_the_users_objects(make):
    reach = Reach([make()[0]])
    assert reach.failure == ""
    assert len(reach._seen) < MOST / 100


def test_an_object_that_cannot_be_looked_into_is_eager_and_said():
    def make():
        held = Refusing()
        return lambda: held.w, lambda: setattr(Refusing, "w", 3.0)

    wanted, _ = losses(pyro.infer.SVI, make)
    Refusing.w = 2.0
    why = r"runs its steps uncompiled: held .* cannot be looked into \(ZeroDivisionError: division"
    with pytest.warns(UserWarning, match=why):
        found, svi = losses(SVI, make)
    Refusing.w = 2.0
    assert found == wanted
    assert not svi._graphs


def test_an_evaluation_with_a_scaler_is_compiled():
    number, _ = a_scaler()
    pair = programs(number)
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found, wanted = (
            pv.evaluate(pair, X, particles=30, compile=compiled, seed=0).elbo.value
            for compiled in (True, False)
        )
    assert np.allclose(found, wanted, rtol=1e-5)
