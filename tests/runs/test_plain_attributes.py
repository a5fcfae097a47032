"""State that a module keeps in a plain tensor attribute is saved; constants are not."""

import functools

import pyro
import pyro.distributions as dist
import torch
from safetensors.torch import load_file
from torch import nn

import pyrovae as pv
from pyrovae.nets import MLP

WIDTH, LATENTS = 6, 2


class Centered(nn.Module):
    """A guide that subtracts a running mean, which is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(WIDTH, 5, 2 * LATENTS)
        self.mean = torch.zeros(WIDTH)
        self.data = torch.ones(1000, WIDTH)
        self.last = None

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        loc, scale = self.net(x - self.mean + self.data[0]).chunk(2, dim=-1)
        self.last = loc
        return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def vae_of(guide):
    likelihood = pv.likelihoods.Bernoulli(MLP(LATENTS, 5, WIDTH))
    return pv.VAE(pv.priors.StandardNormal(LATENTS), likelihood, guide)


def trained(vae):
    x = torch.rand(20, WIDTH, generator=torch.Generator().manual_seed(0)).round()
    svi = pyro.infer.SVI(
        vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
    )
    for _ in range(3):
        svi.step(x)
    return x


def loss(vae, x):
    with pv.seeded(0), torch.no_grad():
        return pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, x)


def test_a_running_mean_in_a_plain_attribute_is_saved_and_restored(tmp_path):
    vae = vae_of(Centered())
    x = trained(vae)
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path, guide=Centered())
    assert torch.equal(again.posterior.mean, vae.posterior.mean)
    assert loss(again, x) == loss(vae, x)


def test_what_is_loaded_is_saved_again(tmp_path):
    vae = vae_of(Centered())
    trained(vae)
    pv.save(vae, tmp_path / "first")
    pv.save(pv.load(tmp_path / "first", guide=Centered()), tmp_path / "second")
    again = pv.load(tmp_path / "second", guide=Centered())
    assert torch.equal(again.posterior.mean, vae.posterior.mean)


def test_constants_and_what_follows_from_parameters_are_not_saved(tmp_path):
    vae = vae_of(Centered())
    trained(vae)
    pv.save(vae, tmp_path)
    names = [name for name in load_file(tmp_path / "model.safetensors") if "attribute" in name]
    assert names == ["attribute/posterior.mean"]


def test_a_tensor_that_is_changed_in_place_is_saved(tmp_path):
    vae = vae_of(Centered())
    vae.posterior.data[0] = 3.0
    pv.save(vae, tmp_path)
    assert pv.load(tmp_path, guide=Centered()).posterior.data[0, 0] == 3.0


def test_the_module_of_a_function_keeps_its_state_too(tmp_path):
    def run(guide, x):
        return guide(x)

    vae = vae_of(functools.partial(run, Centered()))
    x = trained(vae)
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path, guide=functools.partial(run, vae_copy := Centered()))
    assert vae_copy.mean.any()
    assert again.stored is not vae.stored
    assert torch.equal(vae_copy.mean, vae.posterior.args[0].mean)
    assert len(x) == 20


def test_an_alias_of_a_buffer_stays_one(tmp_path):
    class Aliased(Centered):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x):
            self.seen = self.scale.view(1, 1)
            return super().forward(x)

    vae = vae_of(Aliased())
    trained(vae)
    pv.save(vae, tmp_path)
    assert "attribute/posterior.seen" not in load_file(tmp_path / "model.safetensors")


def test_a_part_of_the_library_keeps_no_state_in_plain_attributes(tmp_path):
    vae = pv.mlp_vae(WIDTH, LATENTS, hidden=5)
    trained(vae)
    pv.save(vae, tmp_path)
    assert not [n for n in load_file(tmp_path / "model.safetensors") if n.startswith("attribute")]
