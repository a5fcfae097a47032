"""A module for rows [N, ...] runs on any leading axes, and images stay images throughout."""

import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import pyrovae as pv
from pyrovae.measure.novelty import surprise
from pyrovae.nets import Folded

SIDE, LATENTS = 8, 2
IMAGES = torch.rand(40, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def decoder(channels=1):
    return nn.Sequential(
        nn.Linear(LATENTS, 4 * 4 * 4),
        nn.Unflatten(1, (4, 4, 4)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, channels, 4, stride=2, padding=1),
    )


def encoder():
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 2 * LATENTS),
    )


def vae(likelihood=pv.likelihoods.ContinuousBernoulli, channels=1, fold=Folded, **settings):
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        likelihood(fold(decoder(channels)), **settings),
        pv.guides.MeanFieldNormal(Folded(encoder(), event_dim=3)),
    )


@pytest.mark.parametrize("lead", [(), (5,), (3, 5), (2, 3, 5), (3, 1), (0, 5)])
def test_leading_axes_are_folded_and_unfolded(lead):
    module = decoder().eval()
    z = torch.randn(*lead, LATENTS)
    out = Folded(module)(z)
    assert out.shape == (*lead, 1, SIDE, SIDE)
    for place in np.ndindex(*lead):
        torch.testing.assert_close(out[place], module(z[place][None])[0])


def test_several_inputs_are_expanded_and_several_outputs_unfolded():
    class Several(nn.Module):
        def forward(self, z, label, columns, mask, scale):
            assert {len(v) for v in (z, label, columns, mask)} == {15}
            return {"sum": z.sum(1) + label, "both": (columns, mask), "scale": scale}

    z, mask = torch.randn(3, 5, 2), torch.ones(5, 2) > 0
    label, columns = torch.arange(5.0), torch.randn(5, 4)
    found = Folded(Several())(z, label, columns, mask, 3.0)
    torch.testing.assert_close(found["sum"], z.sum(-1) + label)
    assert torch.equal(found["both"][0], columns.expand(3, 5, 4))
    assert torch.equal(found["both"][1], mask.expand(3, 5, 2))
    assert found["scale"] == 3.0


def test_the_mask_of_an_image_is_one_too():
    class Beside(nn.Module):
        def forward(self, x, mask, label):
            return (x * mask).flatten(1).sum(1) + label

    mask, label = torch.rand(5, 1, 2, 2) > 0.5, torch.arange(5.0)
    x = torch.randn(3, 5, 1, 2, 2)
    wanted = (x * mask).flatten(2).sum(-1) + label
    torch.testing.assert_close(Folded(Beside(), event_dim=3)(x, mask, label), wanted)


def test_enumerated_axes_broadcast_with_rows():
    class Added(nn.Module):
        def forward(self, z, columns):
            return z + columns

    z, columns = torch.randn(4, 1, 1, 2), torch.randn(5, 2)
    torch.testing.assert_close(Folded(Added())(z, columns), (z + columns).expand(4, 1, 5, 2))


@pytest.mark.parametrize(
    ("module", "settings", "x", "message"),
    [
        (nn.Identity(), {"event_dim": 3}, torch.zeros(5, 2), "3 axes for each datum; .*event_dim"),
        (nn.Flatten(0), {}, torch.zeros(3, 5, 2), "one row of output for each of 15 .*R rows"),
        (nn.Identity(), {"event_dim": 0}, None, "at least one axis; got event_dim=0"),
    ],
)
def test_what_does_not_fold_is_refused(module, settings, x, message):
    with pytest.raises(ValueError, match=message):
        Folded(module, **settings)(x)


def test_a_part_inside_is_recorded_and_another_module_named():
    part = Folded(pv.nets.MLP(2, 4, 3), event_dim=1)
    assert pv.parts.is_known(part.config)
    assert pv.parts.build(part.config).module.sizes == (2, 4, 3)
    with pytest.raises(ValueError, match="'Sequential' is not a pyrovae.parts.Part: pass it in"):
        pv.parts.build(Folded(decoder()).config)


def test_a_network_that_cannot_take_particles_is_told_of_it():
    target = vae(fold=lambda module: module)
    with pytest.raises(ValueError, match=r"Sequential cannot take .*\(3, 5, 2\).*nets\.Folded"):
        target.eval().decode(torch.zeros(3, 5, LATENTS))


def test_log_weights_fold_programs_as_networks_do():
    """Particles [K, N] of a program that is run on rows have the weights of a folded network."""
    found = []
    for target in (vae(), vae(fold=lambda module: module)):
        target.eval()
        with pv.seeded(0):
            found.append(pv.log_weights(target, IMAGES, particles=3))
    torch.testing.assert_close(*found)


def test_pyros_own_vectorized_particles_run_on_it():
    target = vae().eval()
    loss = pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    assert np.isfinite(loss.loss(target.model, target.guide, IMAGES))


LIKELIHOODS = {
    "Bernoulli": (pv.likelihoods.Bernoulli, 1, {}, IMAGES.round()),
    "ContinuousBernoulli": (pv.likelihoods.ContinuousBernoulli, 1, {}, IMAGES),
    "Normal, learned": (pv.likelihoods.Normal, 1, {}, IMAGES),
    "Normal, fixed": (pv.likelihoods.Normal, 1, {"scale": 0.3}, IMAGES),
    "Normal, network": (pv.likelihoods.Normal, 2, {"scale": "network"}, IMAGES),
    "Laplace, network": (pv.likelihoods.Laplace, 2, {"scale": "network"}, IMAGES),
    "StudentT": (pv.likelihoods.StudentT, 1, {}, IMAGES),
    "Beta": (pv.likelihoods.Beta, 2, {}, 0.5 + 0.9 * (IMAGES - 0.5)),
    "Categorical": (pv.likelihoods.Categorical, 5, {"classes": 5}, (4 * IMAGES).round()),
    "mixture": (
        pv.likelihoods.DiscretizedLogisticMixture,
        6,
        {"components": 2, "levels": 5},
        (4 * IMAGES).round(),
    ),
    "Poisson": (pv.likelihoods.Poisson, 1, {}, (4 * IMAGES).round()),
}


@pytest.mark.parametrize(
    ("kind", "outputs", "settings", "x"), LIKELIHOODS.values(), ids=LIKELIHOODS
)
def test_a_likelihood_of_images_is_that_of_their_pixels(kind, outputs, settings, x):
    """Images [2 outputs, H, W] score as flat vectors, whose blocks are the channels."""
    x = torch.cat([x, x.flip(-1)], 1)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(LATENTS, 2 * outputs * 64), nn.Unflatten(1, (-1, SIDE, SIDE)))
    images = kind(Folded(net), **settings)
    flat = kind(net[0], **settings)
    z = torch.randn(40, LATENTS)
    found, wanted = images.observation(z), flat.observation(z)
    assert found.event_shape == (2, SIDE, SIDE)
    torch.testing.assert_close(found.log_prob(x), wanted.log_prob(x.flatten(1)))
    together = images.observation(torch.randn(3, 40, LATENTS))
    assert (together.batch_shape, together.event_shape) == ((3, 40), (2, SIDE, SIDE))


def test_blocks_that_do_not_divide_the_channels_are_refused():
    likelihood = pv.likelihoods.Normal(Folded(decoder(3)), scale="network")
    with pytest.raises(ValueError, match="a multiple of 2 channels, .* got 3"):
        likelihood.observation(torch.zeros(5, LATENTS))


@pytest.mark.parametrize("name", ["Bernoulli", "Normal, network", "Categorical"])
def test_the_last_bias_starts_at_the_mean_of_each_channel(name):
    kind, outputs, settings, x = LIKELIHOODS[name]
    likelihood = kind(Folded(decoder(outputs)), **settings).start_at_mean(x)
    bias = likelihood.net.module[-1].bias
    flat = kind(pv.nets.MLP(LATENTS, 64 * outputs), **settings).parameters_at(x.flatten(1))
    torch.testing.assert_close(bias.data, flat.reshape(outputs, -1).mean(1))


def test_images_train_and_every_measurement_and_figure_takes_them(tmp_path):
    target, x = vae(), np.uint8(255 * IMAGES.numpy())
    history = pv.fit(target, x, validation=x, epochs=3, batch_size=16, callbacks=[])
    assert history.column("elbo")[-1] > history.column("elbo")[0]
    check = pv.PredictiveCheck({"mean": torch.mean}, draws=39, limit=10)
    diagnostics = [
        pv.Latents(draws=40),
        pv.AIS(temperatures=2, limit=4, particles=2),
        pv.Gaps(limit=4, steps=2),
        pv.Novelty(pv.data.rotated(IMAGES, None), scores={"surprise": surprise}),
        check,
    ]
    report = pv.evaluate(target, x, particles=20, diagnostics=diagnostics)
    assert set(report.findings) == {each.name for each in diagnostics}
    assert report.dimensions == SIDE * SIDE
    target.eval()
    assert target.reconstruct(x).shape == IMAGES.shape
    assert target.sample(3).shape == (3, 1, SIDE, SIDE)
    traversal = pv.traverse(target, x)
    assert traversal.means.shape[2:] == (1, SIDE, SIDE)
    pv.latent_plane(target, x)
    for name, figure in {
        "reconstructions": pv.plots.reconstructions(target, x[:7]),
        "samples": pv.plots.samples(target, 4),
        "traversals": pv.plots.traversals(traversal),
        "map": pv.plots.latent_map(target, x, torch.arange(40) % 3),
    }.items():
        pv.plots.save(figure, tmp_path / f"{name}.png")


def test_figures_of_images_are_those_of_flat_vectors():
    flat = pv.mlp_vae(64, latents=2, hidden=4)
    x = IMAGES.round().flatten(1)
    with pytest.raises(ValueError, match=r"flat vectors need the shape .* shape=None"):
        pv.plots.reconstructions(flat, x)
    shape = (1, SIDE, SIDE)
    assert torch.equal(pv.data.fold(IMAGES, None), pv.data.fold(IMAGES.flatten(1), shape))
    assert torch.equal(
        pv.data.rotated(IMAGES, None).flatten(1), pv.data.rotated(IMAGES.flatten(1), shape)
    )
    with pytest.raises(ValueError, match=r"images have the shape \(1, 8, 8\); got shape=\(3,"):
        pv.data.fold(IMAGES, (3, 8, 8))


class Folder(Dataset):
    """The PNG files of a folder, with a label each."""

    def __init__(self, folder):
        self.files = sorted(folder.glob("*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        with Image.open(self.files[row]) as image:
            return np.array(image)[None], row % 2


def test_a_folder_of_pngs_trains_an_own_convolutional_vae(tmp_path):
    for row, (image,) in enumerate(np.uint8(255 * IMAGES.numpy())):
        Image.fromarray(image).save(tmp_path / f"{row:02}.png")
    data = pv.data.Labeled(Folder(tmp_path), labels="drop")
    target = vae()
    history = pv.fit(target, data, epochs=2, batch_size=16, callbacks=[])
    assert history.column("elbo")[1] > history.column("elbo")[0]
    found = pv.evaluate(target, data, particles=5)
    assert len(found.elbo.value) == 40
    with pytest.raises(ValueError, match="labels='drop'.*labels='context'"):
        pv.fit(vae(), Folder(tmp_path), epochs=1, callbacks=[])
    with pytest.raises(ValueError, match="Sequential takes no context; got 1.*labels='drop'"):
        pv.evaluate(vae(), Folder(tmp_path), particles=2)


def test_images_for_flat_networks_are_told_how_to_be_flat():
    target = pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.ContinuousBernoulli(pv.nets.MLP(LATENTS, 8, 64)),
        pv.guides.MeanFieldNormal(Folded(encoder(), event_dim=3)),
    )
    with pytest.raises(ValueError, match=r"event shape \(64,\); .*pass x\.flatten\(1\)"):
        pv.fit(target, IMAGES, epochs=1, callbacks=[])
