"""Layers in bfloat16: what is rounded, what is not, and that the step is compiled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS, adam, graph_of, train
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.train.comparison import differences
from pyrovae.train.precision import layers_in
from pyrovae.train.svi import SVI

EPSILON = torch.finfo(torch.bfloat16).eps
X = torch.randn(12, 64, generator=torch.Generator().manual_seed(7)).sigmoid().round()


@pytest.fixture(autouse=True)
def _leave_pyros_store_empty():
    yield
    pyro.clear_param_store()


def rounded(tensor):
    return tensor.to(torch.bfloat16).double()


class Own(nn.Module):
    """A network that is not the library's."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, outputs)

    def forward(self, x):
        return self.last(self.first(x).relu())


def vaes():
    """Return VAEs of several networks and of several parts that have networks, by name."""
    of_own = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(Own(2, 64)),
        pv.guides.MeanFieldNormal(Own(64, 4)),
    )
    convolutional = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.ConvDecoder(2, (1, 8, 8), channels=2)),
        pv.guides.FullRankNormal(pv.nets.ConvEncoder((1, 8, 8), 5, channels=2)),
    )
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 8, 4))
    vamp = pv.VAE(
        pv.priors.VampPrior(guide, 5).start_at_data(X),
        pv.likelihoods.Normal(pv.nets.ResidualMLP(2, 8, 128), scale="network"),
        guide,
    )
    return {
        "perceptrons": pv.mlp_vae(64, latents=2, hidden=8),
        "own networks": of_own,
        "convolutions": convolutional,
        "a VampPrior": vamp,
    }


NAMES = tuple(vaes())


def test_a_linear_layer_rounds_its_input_and_its_weight_and_not_its_bias():
    layer, x = nn.Linear(30, 20), torch.randn(4, 3, 30)
    found = layers_in("bf16")(layer)(x)
    products = rounded(x) @ rounded(layer.weight).T
    assert found.dtype == torch.float32
    without_bias = (found - layer.bias).double()
    # Half a unit in the last of 8 bits, for the rounding of the product; float32's for the bias.
    assert ((without_bias - products).abs() <= EPSILON / 2 * products.abs() + 1e-6).all()
    assert not torch.equal(found, layer(x))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_are_those_of_rounded_numbers(axes, transposed):
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{axes}d")
    layer, x = kind(3, 5, 3, stride=2, padding=1), torch.randn(2, 3, *[7] * axes)
    found = layers_in("bf16")(layer)(x)
    exact = kind(3, 5, 3, stride=2, padding=1).double()
    exact.load_state_dict({"weight": rounded(layer.weight), "bias": layer.bias.double()})
    bias = layer.bias.double().view(-1, *[1] * axes)
    wanted = exact(rounded(x))
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= EPSILON / 2 * (wanted - bias).abs() + 1e-6).all()


def test_gradients_are_in_the_dtype_of_the_weights_and_near_the_exact_ones():
    layer, x = nn.Linear(30, 20), torch.randn(50, 30, requires_grad=True)
    inputs = [x, layer.weight, layer.bias]
    found = torch.autograd.grad(layers_in("bf16")(layer)(x).square().sum(), inputs)
    wanted = torch.autograd.grad(layer(x).square().sum(), inputs)
    for grad, exact in zip(found, wanted, strict=True):
        assert grad.dtype == torch.float32
        # Three roundings of independent signs, of numbers that are summed.
        assert (grad - exact).norm() <= 3 * EPSILON * exact.norm()
        assert not torch.equal(grad, exact)


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_of_every_site_are_float32(name):
    vae = vaes()[name]
    model, guide = map(layers_in("bf16"), (vae.model, vae.guide))
    guide_trace = poutine.trace(guide).get_trace(X)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(X)
    sites = 0
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample" and site["name"] != "data":
                assert site["value"].dtype == site["log_prob"].dtype == torch.float32
                assert site["log_prob_sum"].dtype == torch.float32
                sites += 1
    assert sites == 3


def test_a_log_probability_is_exact_given_the_outputs_of_the_network():
    vae = pv.mlp_vae(64, latents=2, hidden=8)
    z, outputs = torch.randn(12, 2), []
    vae.likelihood.net.register_forward_hook(lambda net, x, out: outputs.append(out.double()))
    trace = poutine.trace(layers_in("bf16")(vae.likelihood))
    with pyro.plate("data", 12):
        found = trace.get_trace(z, X)
    found.compute_log_prob()
    wanted = dist.Bernoulli(logits=outputs[0]).log_prob(X.double()).sum(-1)
    torch.testing.assert_close(found.nodes["x"]["log_prob"].double(), wanted, rtol=1e-5, atol=0)


def test_the_networks_of_a_distribution_keep_their_precision():
    """A flow that drew in another precision than its density would not be a density."""
    torch.manual_seed(0)
    _, guide, _, arguments = PROGRAMS["flow guide"]()
    trace = poutine.trace(layers_in("bf16")(guide)).get_trace(*arguments)
    z = trace.nodes["z"]
    drawn = z["fn"].log_prob(z["value"])
    z["fn"].clear_cache()
    for transform in z["fn"].transforms:
        transform._cached_x_y = None, None
    again = z["fn"].log_prob(z["value"].clone())
    torch.testing.assert_close(drawn, again, rtol=1e-4, atol=1e-4)


RECORDED = ("particles in a plate", "flow guide", "enumerated mixture", "scaled and masked sites")


def test_an_error_in_a_draw_leaves_the_next_call_rounded():
    def failing():
        pyro.sample("z", Failing(torch.zeros(2), 1.0))

    class Failing(dist.Normal):
        def __call__(self, *shape):
            raise ValueError("in the draw")

    handler, layer, x = layers_in("bf16"), nn.Linear(2, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="in the draw"):
        handler(failing)()
    assert not torch.equal(handler(layer)(x), layer(x))


def lowered(name):
    def program():
        model, guide, loss, arguments = PROGRAMS[name]()
        return layers_in("bf16")(model), layers_in("bf16")(guide), loss, arguments

    return program


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_steps_are_the_eager_ones(name):
    svi, losses, values = train(SVI, lowered(name))
    _, wanted_losses, wanted_values = train(pyro.infer.SVI, lowered(name))
    assert svi.compiled
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    for value, wanted in zip(values, wanted_values, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one():
    vae = pv.mlp_vae(64, latents=2, hidden=16)
    model, guide = map(layers_in("bf16"), (vae.model, vae.guide))
    loss = TraceMeanField_ELBO()
    svi = SVI(model, guide, adam(), loss)
    graph = graph_of(svi, X)
    assert graph.run.epsilon == EPSILON
    torch.manual_seed(3)
    value, grads = graph.run(X)
    for parameter in graph.trained:
        parameter.grad = None
    torch.manual_seed(3)
    assert value == pytest.approx(loss.loss_and_grads(model, guide, X), rel=1e-4)
    for grad, parameter in zip(grads, graph.trained, strict=True):
        # An activation that differs in its last float32 bit may round to the next bfloat16.
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(grad, parameter.grad, rtol=0, atol=EPSILON * largest)
    for _ in range(20):
        svi.step(X)
    assert svi.compiled


def test_gradients_may_differ_by_one_rounding_of_the_coarsest_dtype():
    pair = {"w": (torch.tensor([1.0 + EPSILON, 0.5]), torch.tensor([1.0, 0.5]))}
    assert differences((1.0, 1.0), pair)
    assert differences((1.0, 1.0), pair, epsilon=EPSILON) == ""
    assert differences((1.0, 1.0), pair, epsilon=EPSILON / 2)


@pytest.mark.usefixtures("interpreted")
def test_fit_trains_the_same_compiled_and_eagerly_and_leaves_the_networks_as_they_were():
    found = {}
    for compiled in (True, False):
        torch.manual_seed(0)
        vae = pv.mlp_vae(64, latents=2, hidden=8)
        step = pv.Step(precision="bf16", compile=compiled, kl_weight=0.5)
        pv.fit(vae, X, epochs=6, batch_size=4, step=step, seed=0, callbacks=[])
        found[compiled] = vae
    for one, other in zip(*(vae.parameters() for vae in found.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    net, flat = found[True].posterior.net, torch.randn(3, 64)
    full = [layer(flat) for layer in net.layers[:1]][0]
    assert torch.equal(full, flat @ net.layers[0].weight.T + net.layers[0].bias)


def test_a_bf16_training_is_near_a_float32_one_and_not_equal():
    history = {}
    for precision in (None, "bf16"):
        torch.manual_seed(0)
        vae = pv.mlp_vae(64, latents=2, hidden=8)
        step = pv.Step(precision=precision, compile=False)
        history[precision] = pv.fit(vae, X, epochs=3, step=step, seed=0, callbacks=[])
    full, low = (found.column("loss") for found in history.values())
    assert full != low
    assert low == pytest.approx(full, rel=EPSILON)


def test_weights_in_float64_keep_their_log_probabilities_in_float64():
    vae = pv.mlp_vae(64, latents=2, hidden=8).double()
    trace = poutine.trace(layers_in("bf16")(vae.model)).get_trace(X.double())
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "words"),
    [("fp16", "scaled"), ("float32", "None for that of the weights"), ("", "'bf16', or None")],
)
def test_another_precision_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        pv.Step(precision=name)
