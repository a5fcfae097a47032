"""Networks broadcast over leading axes; scales stay finite; wrong inputs are refused."""

import pytest
import torch
from torch import nn

from pyrovae import nets

ODD = (2, 45, 45)

NETWORKS = {
    "ConvEncoder, 45 pixels": (lambda: nets.ConvEncoder(ODD, 5, channels=2), 4050, 5),
    "ConvDecoder, 45 pixels": (lambda: nets.ConvDecoder(6, ODD, channels=2), 6, 4050),
    "MLP": (lambda: nets.MLP(6, 5, 4), 6, 4),
    "MLP of one layer": (lambda: nets.MLP(6, 4), 6, 4),
    "MLP with tanh": (lambda: nets.MLP(6, 5, 5, 4, activation=nn.Tanh), 6, 4),
    "ConvEncoder": (lambda: nets.ConvEncoder((1, 28, 28), 4, channels=2), 784, 4),
    "ConvEncoder of colours": (lambda: nets.ConvEncoder((3, 32, 32), 4, channels=2), 3072, 4),
    "ConvDecoder": (lambda: nets.ConvDecoder(6, (1, 28, 28), channels=2), 6, 784),
    "ConvDecoder of 64 pixels": (lambda: nets.ConvDecoder(6, (1, 64, 64), channels=2), 6, 4096),
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


JOINING = {name: NETWORKS[name] for name in ("MLP", "ConvDecoder")}


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


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)])
def test_an_mlp_needs_two_positive_widths(sizes):
    with pytest.raises(ValueError, match="at least two widths, each 1 or more, as .*; got"):
        nets.MLP(*sizes)


SHAPES = [(1, 28, 32), (1, 24, 24), (1, 68, 68), (0, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_that_are_not_squares_of_28_to_64_pixels_are_refused(shape):
    message = rf"28 to 64 pixels.*got \({shape[0]}, {shape[1]}, {shape[2]}\)\. Pad the image"
    with pytest.raises(ValueError, match=message):
        nets.ConvEncoder(shape, 4)
    with pytest.raises(ValueError, match=message):
        nets.ConvDecoder(4, shape)


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
