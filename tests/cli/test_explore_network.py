"""Decoders as data: decode.js in a browser gives what torch gives, to 1e-5."""

import inspect
import math
from pathlib import Path

import all_cases
import numpy as np
import pytest
import torch
from browsers import chromium
from torch import nn

import pyrovae as pv
from pyrovae.cli.explore import network
from pyrovae.cli.explore.forward import ACTIVATIONS, KINDS, forward
from pyrovae.cli.explore.layers import MODULES
from pyrovae.cli.explore.network import NotExpressible, as_data, packed, unpacked
from pyrovae.nets import MLP, Folded

SCRIPT = Path(network.__file__).with_name("decode.js")
Z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
NO_MEAN_OF_ITS_OWN = ("PixelCNN", "AutoregressiveBernoulli")


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        page = browser.new_page()
        page.set_content("<p>decoders</p>")
        page.add_script_tag(
            content=SCRIPT.read_text() + "\nObject.assign(window, {Decoder, KINDS})"
        )
        yield page


def in_the_browser(page, data, inputs):
    """Return the means that decode.js gives for inputs [N, D + E]."""
    code = """async ([data, inputs]) => {
      const decoder = await decoding.Decoder.read(data);
      return inputs.map((input) => [...decoder.mean(input)]);
    }"""
    return torch.tensor(page.evaluate(code, [data, inputs.tolist()]), dtype=torch.float64)


def error(found, wanted):
    wanted = wanted.detach().flatten(1).double()
    assert found.shape == wanted.shape
    return float(((found - wanted).abs() / (1 + wanted.abs())).max())


def moved(module, seed=0):
    """Return a module in evaluation mode, with parameters and running statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
        for name, value in module.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith("running_mean"):
                value.normal_(generator=generator)
    return module.eval()


def decoder(net, likelihood=pv.likelihoods.Normal):
    torch.manual_seed(0)
    return pv.VAE(pv.priors.StandardNormal(2), likelihood(net), lambda x: None)


def small(*layers):
    """Return a decoder of 24 numbers through layers that take them."""
    return Folded(nn.Sequential(nn.Linear(2, 24), *layers))


def images(*layers):
    return small(nn.Unflatten(1, (4, 2, 3)), *layers)


def sequences(*layers):
    return small(nn.Unflatten(1, (4, 6)), *layers)


def plain_activations():
    """Return the activations of torch that `MLP(activation=...)` can take."""
    found = {}
    for name in nn.modules.activation.__all__:
        given = inspect.signature(getattr(nn, name)).parameters.values()
        named = [one for one in given if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        if all(one.default is not inspect.Parameter.empty for one in named):
            found[name] = getattr(nn, name)
    return found


AXES_OR_TWO_INPUTS = {"Softmax", "LogSoftmax", "Softmin", "Softmax2d", "GLU"}
PERCEPTRONS = {
    name: lambda activation=activation: MLP(2, 16, 5, activation=activation)
    for name, activation in plain_activations().items()
    if name not in AXES_OR_TWO_INPUTS
}
LAYERS = {
    "exact GELU": lambda: small(nn.GELU()),
    "tanh GELU": lambda: small(nn.GELU(approximate="tanh")),
    "LeakyReLU 0.3": lambda: small(nn.LeakyReLU(0.3)),
    "Softplus 3": lambda: small(nn.Softplus(beta=3.0, threshold=1.0)),
    "Hardtanh": lambda: small(nn.Hardtanh(-0.2, 0.4)),
    "PReLU per channel": lambda: images(nn.PReLU(4)),
    "Softmax": lambda: small(nn.Softmax(dim=1)),
    "Softmax over channels": lambda: images(nn.Softmax(dim=1)),
    "LogSoftmax": lambda: images(nn.LogSoftmax(dim=-2)),
    "GLU of channels": lambda: images(nn.GLU(dim=1)),
    "LayerNorm": lambda: small(nn.LayerNorm(24)),
    "LayerNorm of images": lambda: images(nn.LayerNorm((4, 2, 3), elementwise_affine=False)),
    "LayerNorm without bias": lambda: small(nn.LayerNorm(24, bias=False)),
    "GroupNorm": lambda: images(nn.GroupNorm(2, 4)),
    "GroupNorm, not affine": lambda: images(nn.GroupNorm(4, 4, affine=False)),
    "BatchNorm1d": lambda: small(nn.BatchNorm1d(24)),
    "BatchNorm2d": lambda: images(nn.BatchNorm2d(4)),
    "BatchNorm2d, not affine": lambda: images(nn.BatchNorm2d(4, affine=False)),
    "Conv2d": lambda: images(nn.Conv2d(4, 5, 3, padding=1)),
    "Conv2d, strided and dilated": lambda: images(
        nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    ),
    "Conv2d without bias": lambda: images(nn.Conv2d(4, 5, 1, bias=False)),
    "ConvTranspose2d": lambda: images(nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)),
    "ConvTranspose2d, all options": lambda: images(
        nn.ConvTranspose2d(
            *(4, 6, (3, 2), (2, 3)), padding=(1, 0), output_padding=(1, 2), groups=2, dilation=2
        )
    ),
    "Conv1d": lambda: sequences(nn.Conv1d(4, 3, 3, stride=2, padding=1)),
    "ConvTranspose1d": lambda: sequences(nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1)),
    "Upsample": lambda: images(nn.Upsample(scale_factor=(2, 3))),
    "PixelShuffle": lambda: images(nn.PixelShuffle(2)),
    "Linear over rows": lambda: sequences(nn.Linear(6, 2), nn.Flatten()),
    "Dropout": lambda: images(nn.Dropout(0.9), nn.Dropout2d(0.9), nn.Identity()),
    "Rescaled": lambda: pv.nets.Rescaled(MLP(2, 5, 3), low=-2.0, high=3.0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_decodes_as_torch_does(page, name):
    vae = decoder(moved(LAYERS[name]()))
    data = as_data(vae, 2 * Z)
    assert error(in_the_browser(page, data, 2 * Z), vae.decode(2 * Z).mean) < 1e-5


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_each_activation_of_an_mlp_decodes_as_torch_does(page, name):
    vae = decoder(moved(PERCEPTRONS[name]()))
    # 20 Z reaches the flat ends, where exponentials would overflow.
    for z in (Z, 20 * Z):
        found = in_the_browser(page, as_data(vae, z), z)
        assert error(found, vae.decode(z).mean) < 1e-5


def expressible():
    families = ("nets: ", "likelihoods: ", "counts: ")
    return [
        name
        for name in all_cases.CASES
        if name.startswith(families) and not name.endswith(NO_MEAN_OF_ITS_OWN)
    ]


@pytest.mark.parametrize("name", expressible())
def test_every_decoder_family_and_likelihood_decodes_as_torch_does(page, name):
    torch.manual_seed(0)
    case = all_cases.CASES[name]()
    vae = moved(case.vae)
    data = as_data(vae, Z, *case.context)
    masked = isinstance(vae.likelihood, pv.likelihoods.Masked)
    used = case.context[:-1] if masked else case.context
    inputs = torch.cat([Z, *(value.reshape(len(Z), -1) for value in used)], -1)
    assert data["inputs"] == inputs.shape[1]
    found = in_the_browser(page, data, inputs)
    assert error(found, vae.decode(Z, *case.context).mean) < 1e-5


LIKELY = {
    "Bernoulli": (pv.likelihoods.Bernoulli, 1, range(2)),
    "Categorical": (lambda net: pv.likelihoods.Categorical(net, classes=4), 4, range(4)),
}


@pytest.mark.parametrize("name", LIKELY)
def test_the_most_probable_values_are_those_of_torch(page, name):
    family, outputs, levels = LIKELY[name]
    vae = decoder(moved(MLP(2, 20, outputs * 6)), family)
    z = 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    fn = vae.decode(z).base_dist
    wanted = torch.stack([fn.log_prob(torch.tensor(float(level))) for level in levels]).argmax(0)
    found = in_the_browser(page, as_data(vae, z, likely=True), z)
    assert found.tolist() == wanted.tolist()
    assert set(wanted.flatten().tolist()) == set(levels)


def test_images_of_two_numbers_per_pixel_decode_as_torch_does(page):
    net = Folded(nn.Sequential(nn.Linear(2, 4 * 6), nn.Unflatten(1, (4, 2, 3))))
    vae = decoder(net, lambda net: pv.likelihoods.Normal(net, scale="network"))
    found = in_the_browser(page, as_data(vae, Z), Z)
    assert vae.decode(Z).mean.shape == (4, 2, 2, 3)
    assert error(found, vae.decode(Z).mean) < 1e-5


def test_large_outputs_stay_finite_as_in_torch(page):
    for family in (
        pv.likelihoods.Poisson,
        pv.likelihoods.ContinuousBernoulli,
        pv.likelihoods.Bernoulli,
        lambda net: pv.likelihoods.NegativeBinomial(net, 3),
    ):
        vae = decoder(MLP(2, 3), family)
        z = 200 * Z
        found, wanted = in_the_browser(page, as_data(vae, z), z), vae.decode(z).mean
        assert wanted.isfinite().all()
        assert error(found, wanted) < 1e-5


def test_the_browser_knows_the_same_kinds_of_layer(page):
    assert page.evaluate("Object.keys(decoding.KINDS)") == list(KINDS)
    assert set(ACTIVATIONS) < set(KINDS)


def test_every_class_of_module_and_every_likelihood_is_in_a_test():
    made = [make() for make in (*LAYERS.values(), *PERCEPTRONS.values())]
    made += [all_cases.CASES[name]().vae for name in expressible()]
    seen = {type(module) for one in made for module in one.modules()}
    assert set(MODULES) <= seen
    assert not set(network.HEADS) - seen


def test_a_decoder_takes_numbers_of_its_width(page):
    data = as_data(decoder(MLP(2, 3)), Z)
    with pytest.raises(Exception, match="the decoder takes 2 numbers; got 3"):
        in_the_browser(page, data, torch.zeros(1, 3))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Own(nn.Module):
    def forward(self, z, x=None):
        raise NotImplementedError


REFUSED = {
    "a subclass": (lambda: decoder(Doubled(2, 3)), "class Doubled"),
    "a likelihood of one's own": (
        lambda: pv.VAE(lambda: None, Own(), lambda x: None),
        "class Own",
    ),
    "statistics of the batch": (
        lambda: decoder(small(nn.BatchNorm1d(24, track_running_stats=False))),
        "depends on the other data",
    ),
    "bilinear": (
        lambda: decoder(images(nn.Upsample(scale_factor=2, mode="bilinear"))),
        "bilinear",
    ),
    "reflected": (
        lambda: decoder(images(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))),
        "reflect",
    ),
    "no total": (lambda: decoder(MLP(2, 3), pv.likelihoods.Multinomial), "library=True"),
    "labels": (
        lambda: decoder(MLP(2, 3), lambda net: pv.likelihoods.Label(net, classes=3)),
        "class Label",
    ),
    "a changed method": (lambda: changed(), "differ from torch by"),
}


def changed():
    vae = decoder(MLP(2, 3))
    vae.likelihood.net.layers[0].register_forward_hook(lambda module, given, out: out + 1)
    return vae


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_as_data_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    with pytest.raises(NotExpressible, match=reason):
        as_data(make().eval(), Z)


def test_a_chain_of_pixels_has_no_form_as_data():
    torch.manual_seed(0)
    case = all_cases.CASES["nets: PixelCNN"]()
    with pytest.raises(NotExpressible, match="AutoregressiveBernoulli"):
        as_data(case.vae, Z, *case.context)


def test_a_network_with_a_context_of_its_own_is_refused():
    class Given(nn.Linear):
        def forward(self, z, label):
            return super().forward(z) * label

    vae = decoder(Folded(Given(2, 3)))
    with pytest.raises(NotExpressible, match="takes a context in a way of its own"):
        as_data(vae, Z, torch.ones(4, 1))


def test_latents_that_are_no_rows_are_refused():
    with pytest.raises(NotExpressible, match=r"\(4, 2, 2\)"):
        as_data(decoder(MLP(2, 3)), torch.zeros(4, 2, 2))


def test_writing_leaves_the_mode_and_the_parameters_as_they_were():
    vae = decoder(moved(small(nn.BatchNorm1d(24))))
    vae.train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    as_data(vae, Z)
    assert all(module.training for module in vae.modules())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_decoder_in_double_precision_is_written_to_the_tolerance():
    data = as_data(decoder(moved(MLP(2, 50, 5).double())), Z.double())
    assert 0 < data["error"] < 1e-6


def test_packing_keeps_every_bit():
    numbers = np.random.default_rng(0).normal(size=1000).astype("f4")
    assert unpacked(packed(numbers), "f4").tobytes() == numbers.tobytes()
    assert math.isinf(float(unpacked(packed(np.array([np.inf])), "f8")[0]))


def test_layers_are_applied_one_after_the_other():
    layers = [{"kind": "scale", "by": 3.0, "plus": 1.0}, {"kind": "relu"}]
    assert forward(layers, torch.tensor([[-1.0, 2.0]])).tolist() == [[0.0, 7.0]]
