"""Networks broadcast over leading axes; scales stay finite; wrong inputs are refused."""

import math
import re

import pytest
import torch
from torch import nn
from worlds import random

from pyrovae import nets
from pyrovae.likelihoods import Bernoulli
from pyrovae.nets.blocks import group_norm

IMAGES = {
    "8 pixels": (1, 8, 8),
    "9 by 13 pixels": (2, 9, 13),
    "28 pixels": (1, 28, 28),
    "Frey faces": (1, 28, 20),
    "45 pixels, two channels": (2, 45, 45),
    "32 pixels in color": (3, 32, 32),
    "64 pixels in color": (3, 64, 64),
    "128 pixels in color": (3, 128, 128),
}
IMAGE_NETWORKS = {
    "ConvEncoder": lambda shape: nets.ConvEncoder(shape, 4, channels=2),
    "ConvDecoder": lambda shape: nets.ConvDecoder(6, shape, channels=2),
    "ResNetEncoder": lambda shape: nets.ResNetEncoder(shape, 4, channels=2),
    "ResNetDecoder": lambda shape: nets.ResNetDecoder(6, shape, channels=2),
}


def _of_images(name, shape):
    size = math.prod(shape)
    width, out = (size, 4) if name.endswith("Encoder") else (6, size)
    return lambda: IMAGE_NETWORKS[name](shape), width, out


NETWORKS = {
    "MLP": (lambda: nets.MLP(6, 5, 4), 6, 4),
    "MLP of one layer": (lambda: nets.MLP(6, 4), 6, 4),
    "MLP with tanh": (lambda: nets.MLP(6, 5, 5, 4, activation=nn.Tanh), 6, 4),
    "GatedMLP": (lambda: nets.GatedMLP(6, 5, 5, 4), 6, 4),
    "ResidualMLP": (lambda: nets.ResidualMLP(6, 5, 5, 4), 6, 4),
    **{
        f"{name}, {size}": _of_images(name, shape)
        for name in IMAGE_NETWORKS
        for size, shape in IMAGES.items()
    },
}


@pytest.mark.parametrize(("make", "width", "out"), NETWORKS.values(), ids=NETWORKS.keys())
def test_networks_broadcast_over_leading_axes(make, width, out):
    net = make().double()
    x = torch.randn(3, 2, width, dtype=torch.float64)
    found = net(x)
    assert found.shape == (3, 2, out)
    for k in range(3):
        for n in range(2):
            # The same sums in another order: rounding of float64 alone.
            torch.testing.assert_close(found[k, n], net(x[k, n]), rtol=1e-12, atol=1e-12)


JOINING = {
    name: made for name, made in NETWORKS.items() if "MLP" in name or "Decoder, Frey" in name
}


@pytest.mark.parametrize(("make", "width", "out"), JOINING.values(), ids=JOINING.keys())
def test_several_inputs_are_joined_and_their_leading_axes_broadcast(make, width, out):
    net = make()
    z, label = torch.randn(3, 2, width - 2), torch.randn(2, 2)
    joined = torch.cat([z, label.expand(3, 2, 2)], -1)
    torch.testing.assert_close(net(z, label), net(joined))
    assert net(z, label).shape == (3, 2, out)


@pytest.mark.parametrize(("make", "width", "out"), NETWORKS.values(), ids=NETWORKS.keys())
def test_inputs_of_another_width_or_dtype_are_refused(make, width, out):
    net = make()
    message = rf"{type(net).__name__} expected inputs \[\.\.\., {width}\]; got \(2, {width + 1}\)"
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(2, width + 1))
    with pytest.raises(ValueError, match=r"got \(\)"):
        net(torch.tensor(0.0))
    message = r"weights of torch.float32; got inputs of torch.float64. Convert them with x\.to\("
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(2, width).double())


@pytest.mark.parametrize("family", [nets.MLP, nets.GatedMLP, nets.ResidualMLP])
@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)])
def test_a_perceptron_needs_two_positive_widths(family, sizes):
    message = (
        f"{family.__name__} needs at least two widths, each 1 or more, such as {family.__name__}"
    )
    with pytest.raises(ValueError, match=message):
        family(*sizes)


def test_a_gated_layer_is_a_product_of_a_line_and_a_sigmoid():
    net, x = nets.GatedMLP(3, 4, 2).double(), random(0, 5, 3)
    first, _, last = net.layers
    line, gate = x @ first.weight.T[:, :4], x @ first.weight.T[:, 4:]
    hidden = (line + first.bias[:4]) / (1 + (-gate - first.bias[4:]).exp())
    torch.testing.assert_close(net(x), hidden @ last.weight.T + last.bias, rtol=0, atol=1e-12)


def test_a_residual_layer_adds_two_layers_of_what_is_normalized_to_its_input():
    net, x = nets.ResidualMLP(3, 4, 4, 2).double(), random(0, 5, 3)
    projection, first, second, last = net.layers
    hidden = projection(x)
    for block in (first, second):
        _, _, lift, _, lower = block.inner
        spread = (hidden.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        normal = (hidden - hidden.mean(-1, keepdim=True)) / spread
        hidden = hidden + lower(lift(normal.clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(net(x), last(hidden), rtol=0, atol=1e-12)


REFUSED = [(1, 7, 28), (1, 28, 7), (0, 28, 28), (28, 28)]


@pytest.mark.parametrize("shape", REFUSED)
@pytest.mark.parametrize("make", IMAGE_NETWORKS.values(), ids=IMAGE_NETWORKS.keys())
def test_images_with_a_side_below_8_pixels_are_refused(make, shape):
    message = rf"sides of at least 8 pixels; got {re.escape(str(shape))}\. Pad the image"
    with pytest.raises(ValueError, match=message):
        make(shape)


def test_a_convolution_without_channels_is_refused():
    with pytest.raises(ValueError, match="at least one channel; got channels=0"):
        nets.ResNetEncoder((1, 28, 28), 4, channels=0)


STAGES = [(8, 1), (15, 1), (16, 2), (28, 2), (31, 2), (32, 3), (64, 4), (127, 4), (128, 5)]


@pytest.mark.parametrize(("side", "stages"), STAGES)
def test_the_shorter_side_is_halved_while_4_pixels_are_left(side, stages):
    for shape in ((1, side, side), (1, side, 2 * side), (1, 3 * side, side)):
        for name in ("ConvEncoder", "ResNetEncoder"):
            layers = IMAGE_NETWORKS[name](shape).layers
            strided = [layer for layer in layers if getattr(layer, "stride", 1) == (2, 2)]
            assert len(strided) == stages


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES.keys())
def test_every_input_reaches_the_output_and_every_output_an_input(name, shape):
    make, width, _ = _of_images(name, shape)
    net, x = make().double(), (random(0, width).abs() + 1).requires_grad_()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()  # so that no rectifier is off
    net(x).square().sum().backward()
    assert (x.grad != 0).all()
    assert (net(x + random(1, width).abs()) != net(x)).all()


def test_a_map_of_the_decoder_lies_where_its_patch_of_the_image_is():
    """At 28 x 20 pixels, two stages: map (r, c) enlarges to rows 4 r .. 4 r + 3, and its edge."""
    net = nets.ConvDecoder(6, (3, 28, 20), channels=2)
    z = torch.randn(6)
    before = net(z).reshape(3, 28, 20)
    with torch.no_grad():
        net.layers[0].bias.reshape(4, 7, 5)[:, 4, 2] += 10
    changed = (net(z).reshape(3, 28, 20) != before).any(0).nonzero()
    (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
    assert 13 <= top <= 16
    assert 5 <= left <= 8
    assert 19 <= bottom <= 22
    assert 11 <= right <= 14


def test_a_patch_of_the_image_lies_where_its_map_of_the_encoder_is():
    net = nets.ConvEncoder((3, 28, 20), 4, channels=2)
    maps, x = net.layers[:-1], torch.randn(1, 3, 28, 20)
    moved = x.clone()
    moved[:, 1, 16:20, 8:12] += 1  # map (4, 2), and its neighbors by the kernel's overlap
    changed = (maps(moved) != maps(x)).reshape(4, 7, 5).any(0).nonzero()
    assert ((changed - torch.tensor([4, 2])).abs() <= 1).all()
    assert len(changed) > 0
    flat = torch.cat([x, moved]).flatten(1)
    torch.testing.assert_close(net(flat), net.layers(torch.cat([x, moved])))


DECODERS = {
    "MLP": lambda: nets.MLP(6, 5, 560),
    "GatedMLP": lambda: nets.GatedMLP(6, 5, 560),
    "ResidualMLP": lambda: nets.ResidualMLP(6, 5, 560),
    "ConvDecoder": lambda: nets.ConvDecoder(6, (1, 28, 20), channels=2),
    "ResNetDecoder": lambda: nets.ResNetDecoder(6, (1, 28, 20), channels=2),
}


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS.keys())
def test_a_decoder_starts_at_the_mean_of_each_pixel(make):
    likelihood = Bernoulli(make().double())
    x = torch.bernoulli(torch.linspace(0, 1, 560, dtype=torch.float64).expand(50, 560))
    assert likelihood.start_at_mean(x) is likelihood
    *_, last = (layer for layer in likelihood.net.modules() if hasattr(layer, "weight"))
    nn.init.zeros_(last.weight)
    probabilities = likelihood.observation(random(0, 3, 6)).mean
    wanted = (x.sum(0) + 0.5) / 51
    torch.testing.assert_close(probabilities, wanted.expand(3, 560), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS.keys())
def test_a_start_at_the_mean_moves_the_output_by_the_bias_alone(make):
    net, z = make().double(), random(0, 3, 6)
    before, wanted = net(z), random(1, 560)
    bias = list(net.parameters())[-1].clone()
    nets.set_last_bias(net, wanted)
    moved = (wanted - bias).expand(3, 560)
    torch.testing.assert_close(net(z) - before, moved, rtol=0, atol=1e-12)


def test_a_bias_for_each_channel_becomes_its_mean():
    net = nn.Sequential(nn.Linear(6, 2), nn.Unflatten(-1, (2, 1, 1)), nn.ConvTranspose2d(2, 3, 4))
    nets.set_last_bias(net, torch.arange(48.0))
    assert net[-1].bias.tolist() == [7.5, 23.5, 39.5]


@pytest.mark.parametrize(
    ("last", "met"), [(nn.ReLU(), "ReLU with bias none"), (nn.Linear(5, 3), r"\(3,\)")]
)
def test_a_last_layer_without_a_fitting_bias_is_refused(last, met):
    with pytest.raises(ValueError, match=f"a bias of width 4 .*got .*{met}"):
        nets.set_last_bias(nn.Sequential(nn.Linear(6, 5), last), torch.zeros(4))


@pytest.mark.parametrize("channels", [1, 2, 3, 24, 32, 33, 40, 256])
def test_the_groups_of_a_normalization_divide_its_channels(channels):
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= max(1, channels // 16)
    assert groups == channels // 16 or channels % 16


def test_columns_are_encoded_as_numbers_indicators_and_the_mask():
    x = torch.tensor([[-1.5, 3.0, 2.0, 1.0], [0.5, 7.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, True]])
    encoded = nets.EncodeColumns(nn.Identity(), [0, 0, 3, 2], counts=[1])
    numbers = [[-1.5, math.log(4)], [0.5, 0.0]]
    indicators = [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    wanted = torch.cat([torch.tensor(numbers), torch.tensor(indicators), mask], -1)
    torch.testing.assert_close(encoded(x, mask), wanted)
    assert wanted.shape[-1] == nets.EncodeColumns.width([0, 0, 3, 2]) + 4
    other = torch.where(mask, x, torch.tensor(9e9))
    assert torch.equal(encoded(other, mask), encoded(x, mask))
    stacked = encoded(x.expand(3, 2, 4), mask.expand(3, 2, 4))
    assert torch.equal(stacked, wanted.expand(3, 2, 11))


@pytest.mark.parametrize(
    ("x", "context", "said"),
    [
        (torch.zeros(2, 3), (torch.ones(2, 3) > 0,), r"takes 2 columns; got x of shape \(2, 3\)"),
        (torch.zeros(2, 2), (), "takes the mask of observed entries"),
        (torch.zeros(2, 2), (torch.ones(2, 2),), "takes a boolean mask"),
    ],
)
def test_columns_without_their_mask_or_of_another_number_are_refused(x, context, said):
    with pytest.raises(ValueError, match=f"EncodeColumns {said}"):
        nets.EncodeColumns(nn.Identity(), [0, 3])(x, *context)


@pytest.mark.parametrize("h", [-50.0, -1.0, 0.0, 1.0, 50.0])
def test_scales_their_squares_and_their_gradients_stay_normal_numbers(h):
    raw = torch.tensor(h, requires_grad=True)
    scale = nets.positive(raw)
    assert scale.dtype == torch.float32
    tiny, huge = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    assert tiny <= float(scale.detach().square()) <= huge
    (scale.log() + scale.square() + 1 / scale.square()).backward()
    assert raw.grad.isfinite()


def test_scales_rise_with_their_input_as_softplus_does():
    h = torch.linspace(-8, 8, 33, dtype=torch.float64)
    scale = nets.positive(h)
    torch.testing.assert_close(scale, (1 + h.exp()).log() + nets.SMALLEST_SCALE)
    assert (scale.diff() > 0).all()
