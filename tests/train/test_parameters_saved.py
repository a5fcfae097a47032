"""Whatever way a parameter is held, what was trained is what is saved and comes back."""

import copy
import functools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from safetensors.torch import load_file
from torch import nn

import pyrovae as pv
from pyrovae.weights.stored import held_modules

WIDTH, LATENTS = 6, 2


@pytest.fixture(autouse=True)
def _a_store_of_ones_own():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def observed(net, z, x, scale=0.5):
    return pyro.sample("x", dist.Normal(net(z), scale).to_event(1), obs=x)


class OfTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.raw = pv.nets.MLP(LATENTS, 5, WIDTH), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, z, x=None):
        return observed(self.net, z, x, nn.functional.softplus(self.raw))


class OfPyro(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = pv.nets.MLP(LATENTS, 5, WIDTH)
        self.scale = PyroParam(torch.ones(WIDTH), constraint=dist.constraints.positive)

    def forward(self, z, x=None):
        return observed(self.net, z, x, self.scale)


class Normalized(nn.Module):
    """A network with buffers that training moves and evaluation reads."""

    def __init__(self):
        super().__init__()
        self.net, self.norm = nn.Linear(LATENTS, WIDTH), nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, z, x=None):
        return observed(self, z, x) if x is not None else self.mean(z)

    def mean(self, z):
        flat = self.net(z).reshape(-1, WIDTH)
        return self.norm(flat).reshape(*z.shape[:-1], WIDTH)


def by_param():
    def likelihood(z, x=None):
        weight = pyro.param("weight", lambda: torch.randn(LATENTS, WIDTH))
        return observed(lambda z: z @ weight, z, x)

    return likelihood


def by_constrained_param():
    def likelihood(z, x=None):
        weight = pyro.param("weight", torch.randn(LATENTS, WIDTH))
        scale = pyro.param("scale", torch.ones(WIDTH), constraint=dist.constraints.positive)
        return observed(lambda z: z @ weight, z, x, scale)

    return likelihood


def by_module():
    net = pv.nets.MLP(LATENTS, 5, WIDTH)

    def likelihood(z, x=None):
        pyro.module("decoder", net)
        return observed(net, z, x)

    return likelihood


def by_module_with_buffers():
    net = Normalized()

    def likelihood(z, x=None):
        pyro.module("decoder", net)
        return observed(net.mean, z, x)

    return likelihood


class Plus(PyroModule):
    def __init__(self):
        super().__init__()
        self.weight = PyroParam(torch.rand(LATENTS, WIDTH), constraint=dist.constraints.positive)
        self.net = pv.nets.MLP(LATENTS, 5, WIDTH)

    def forward(self, z):
        return self.net(z) + z @ self.weight


def by_a_pyro_module_in_a_closure():
    net = Plus()
    return lambda z, x=None: observed(net, z, x)


def by_partial():
    net = pv.nets.MLP(LATENTS, 5, WIDTH)

    def likelihood(net, z, x=None):
        pyro.module("decoder", net)
        return observed(net, z, x)

    return functools.partial(likelihood, net)


class Scored(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Normalized()

    def forward(self, z, x=None):
        return observed(self.norm.mean, z, x)


WAYS = {
    "a module": OfTorch,
    "a PyroModule with a PyroParam": OfPyro,
    "buffers of a module": Scored,
    "pyro.param": by_param,
    "a constrained pyro.param": by_constrained_param,
    "pyro.module": by_module,
    "pyro.module of a module with buffers": by_module_with_buffers,
    "pyro.module in a partial": by_partial,
    "a PyroModule in a closure": by_a_pyro_module_in_a_closure,
}


def vae_with(likelihood):
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(WIDTH, 5, 2 * LATENTS))
    return pv.VAE(pv.priors.StandardNormal(LATENTS), likelihood, guide)


def data(n=40):
    with pv.seeded(1):
        return 2 + torch.randn(n, LATENTS) @ torch.randn(LATENTS, WIDTH)


def elbo(vae):
    return pv.evaluate(vae, data(), particles=20).elbo.value


def trained(make, folder, **options):
    vae = vae_with(make())
    optim = pyro.optim.Adam({"lr": 0.05})
    pv.fit(
        vae, data(), epochs=5, batch_size=20, step=pv.Step(optim),
        callbacks=[pv.Checkpoint(folder)], **options,
    )  # fmt: skip
    return vae


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
def test_what_was_trained_comes_back_where_nothing_else_is_known(make, tmp_path):
    """A fresh store and a fresh program, as in another process: the ELBO is the very same."""
    torch.manual_seed(0)
    untrained = elbo(vae_with(make())).mean()
    pyro.clear_param_store()
    wanted = elbo(trained(make, tmp_path))
    assert wanted.mean() > untrained + 1  # there is something to lose
    pyro.clear_param_store()
    torch.manual_seed(1)
    again = pv.load(tmp_path, likelihood=make())
    torch.testing.assert_close(elbo(again), wanted, rtol=0, atol=1e-5)
    pv.save(again, tmp_path / "again")
    saved, twice = (load_file(f / "model.safetensors") for f in (tmp_path, tmp_path / "again"))
    assert saved.keys() == twice.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, twice[name]), name


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
def test_what_was_loaded_trains_on_and_is_saved_anew(make, tmp_path):
    torch.manual_seed(0)
    trained(make, tmp_path)
    pyro.clear_param_store()
    again = pv.load(tmp_path, likelihood=make())
    before = load_file(tmp_path / "model.safetensors")
    pv.fit(again, data(), epochs=1, batch_size=20, callbacks=[pv.Checkpoint(tmp_path)])
    after = load_file(tmp_path / "model.safetensors")
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in after if not name.startswith("prior")}


def test_parameters_of_the_store_have_their_names_in_the_file(tmp_path):
    trained(by_constrained_param, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    scale = pyro.param("scale").detach()
    torch.testing.assert_close(saved["param store/scale"].exp(), scale)


def test_loading_leaves_the_other_entries_of_the_store_alone(tmp_path):
    trained(by_constrained_param, tmp_path)
    wanted = pyro.param("scale").detach().clone()
    pyro.clear_param_store()
    mine = pyro.param("mine", torch.ones(3))
    other = pyro.param("scale", torch.ones(2))  # of another shape, and unconstrained
    again = pv.load(tmp_path, likelihood=by_constrained_param())
    elbo(again)
    store = pyro.get_param_store()
    assert store["mine"] is mine
    torch.testing.assert_close(store["scale"].detach(), wanted)
    assert torch.equal(other, torch.ones(2))
    assert set(store.keys()) == {"mine", "scale", "weight"}


def test_a_run_loads_into_a_new_module_of_the_same_process(tmp_path):
    """Pyro's store still has the module that was trained, under the same name."""
    torch.manual_seed(0)
    first = trained(by_module, tmp_path)
    wanted = elbo(first)
    again = pv.load(tmp_path, likelihood=by_module())
    torch.testing.assert_close(elbo(again), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(elbo(first), wanted, rtol=0, atol=1e-5)
    pv.fit(again, data(), epochs=1, callbacks=[])


def test_a_loaded_likelihood_decodes_before_any_program_has_run(tmp_path):
    vae, z = trained(by_param, tmp_path), torch.randn(3, LATENTS)
    wanted = vae.decode(z).mean.detach()
    pyro.clear_param_store()
    found = pv.load(tmp_path, likelihood=by_param()).decode(z).mean.detach()
    assert torch.equal(found, wanted)


def test_programs_with_other_parameters_than_the_run_are_refused(tmp_path):
    trained(by_param, tmp_path)
    pyro.clear_param_store()
    again = pv.load(tmp_path, likelihood=by_constrained_param())
    with pytest.raises(ValueError, match=r"'scale' in Pyro's store.*no value.*\['weight'\]"):
        elbo(again)

    def wider(z, x=None):
        weight = pyro.param("weight", torch.zeros(LATENTS + 1, WIDTH))
        return observed(lambda z: z @ weight[1:], z, x)

    with pytest.raises(ValueError, match=r"'weight' of Pyro's store in shape \(2, 6\).*\(3, 6\)"):
        elbo(pv.load(tmp_path, likelihood=wider))


def test_a_module_without_the_buffers_of_the_run_is_refused(tmp_path):
    trained(by_module_with_buffers, tmp_path)
    with pytest.raises(ValueError, match="has besides the tensors .*running_mean"):
        pv.load(tmp_path, likelihood=by_module())


def test_a_module_that_hides_behind_an_earlier_one_of_its_name_is_named(tmp_path):
    """Pyro's store answers with the first module's parameters; the program uses its own."""
    pv.fit(vae_with(by_module()), data(), epochs=1, callbacks=[])
    with pytest.raises(ValueError, match=r"another parameter .*'decoder\$\$\$.*clear_param_store"):
        pv.fit(vae_with(by_module()), data(), epochs=1, callbacks=[])


def test_copies_and_pickles_hold_what_was_trained(tmp_path):
    vae = vae_with(module_level_likelihood)
    pv.fit(vae, data(), epochs=1, callbacks=[])
    wanted = elbo(vae)
    assert torch.equal(elbo(copy.deepcopy(vae)), wanted)
    content = pickle.dumps(vae)
    pyro.clear_param_store()
    assert torch.equal(elbo(pickle.loads(content)), wanted)


def module_level_likelihood(z, x=None):
    weight = pyro.param("weight", lambda: torch.randn(LATENTS, WIDTH))
    return observed(lambda z: z @ weight, z, x)


def test_modules_are_found_behind_closures_globals_partials_and_methods():
    net = nn.Linear(1, 1)

    class Holder:
        def __init__(self):
            self.net = net

        def likelihood(self, z, x=None):
            return self.net(z)

    def helper(z):
        return net(z)

    for program in (
        lambda z: net(z),
        lambda z: helper(z),
        lambda z: [net(part) for part in z],
        functools.partial(lambda net, z: net(z), net),
        Holder().likelihood,
        net.forward,
    ):
        assert list(held_modules(likelihood=program).values()) == [net]
    assert held_modules(likelihood=net) == {}
    assert held_modules(likelihood=module_level_likelihood) == {}
