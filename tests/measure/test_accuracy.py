"""Class probabilities where Bayes' rule gives them, and verdicts on known tables of two by two."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom
from torch import nn
from worlds import Mixture, data_plate, random

import pyrovae as pv
from pyrovae.measure.accuracy import Accuracy, AccuracyFinding, _right, class_probabilities
from pyrovae.measure.findings import NotMeasurable
from pyrovae.nets import MLP

WORLD = Mixture()
X = WORLD.sample(40)
PAIR = WORLD.model, WORLD.guide_enumerated


def test_the_probabilities_of_a_guide_s_class_are_q():
    torch.testing.assert_close(class_probabilities(PAIR, X), WORLD.off_classes(X))


def test_the_class_of_a_continuous_world_is_given_before_z_is_drawn():
    world = Mixture(continuous=True)
    found = class_probabilities((world.model, world.guide_enumerated), X)
    torch.testing.assert_close(found, world.off_classes(X))


WIDE = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]).double()


def label_given(image):
    """p(y | z) = softmax(A z) with z ~ N(image, 0.5^2), as two programs of (y, image)."""

    def model(y, image):
        with data_plate(y):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Categorical(logits=z @ WIDE.T), obs=y)

    def guide(y, image):
        with data_plate(y):
            pyro.sample("z", dist.Normal(image, 0.5).to_event(1))

    nodes, weights = quadrature(30)
    z = image[:, None] + 0.5 * nodes
    wanted = (weights[:, None] * (z @ WIDE.T).softmax(-1)).sum(1)
    return (model, guide), wanted


def quadrature(n):
    """Return Gauss and Hermite's nodes [n^2, 2] and weights of a standard normal in the plane."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    return torch.cartesian_prod(nodes, nodes), torch.outer(weights, weights).flatten()


def test_the_probabilities_of_a_label_are_the_mean_over_the_posterior():
    image = random(5, 6, 2)
    pair, wanted = label_given(image)
    found = class_probabilities(pair, torch.zeros(6).double(), image, particles=20_000)
    # A probability has a spread of at most 0.5 over z: 4 errors.
    torch.testing.assert_close(found, wanted, rtol=0, atol=4 * 0.5 / math.sqrt(20_000))
    at_mean = (image @ WIDE.T).softmax(-1)
    assert (at_mean - wanted).abs().max() > 0.02  # which the mean of z would not give


def test_a_vae_of_labels_ignores_the_labels_it_is_given_and_does_not_drop_out():
    torch.manual_seed(0)
    vib = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Label(nn.Sequential(nn.Dropout(0.5), MLP(2, 3)), classes=3),
        pv.guides.OfContext(pv.guides.MeanFieldNormal(MLP(4, 4))),
    )
    image = random(1, 5, 4).float()
    found = []
    for labels in (torch.zeros(5), torch.tensor([2.0, 1.0, 0.0, 1.0, 2.0])):
        with pv.seeded(0):
            found.append(class_probabilities(vib, labels, image))
    assert torch.equal(*found)
    assert vib.training


def two_by_two(both, won, lost, neither):
    right = [True] * (both + won) + [False] * (lost + neither)
    alone = [True] * both + [False] * won + [True] * lost + [False] * neither
    return AccuracyFinding(torch.tensor(right), torch.tensor(alone), wanted=len(right))


def test_mcnemar_s_p_value_is_the_sum_of_a_fair_coin():
    found = two_by_two(50, 12, 4, 20)
    assert (found.won, found.lost) == (12, 4)
    assert found.p_value == pytest.approx(2 * sum(binom.pmf(k, 16, 0.5) for k in range(5)))
    assert two_by_two(5, 0, 0, 5).p_value == 1.0


def test_the_error_of_the_gain_covers_it():
    """In 2,000 tables of known cells, the gain lies within 1.96 errors 95 times in 100."""
    cells = torch.tensor([0.7, 0.15, 0.05, 0.1])
    drawn = torch.distributions.Multinomial(300, cells).sample((2000,)).int().tolist()
    gains = [two_by_two(*counts).gain for counts in drawn]
    inside = [abs(g.mean - 0.1) < 1.96 * g.error_over_data for g in gains]
    share = sum(inside) / len(inside)
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
    assert two_by_two(9, 0, 0, 1).gain.error_over_data > 0


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((70, 20, 2, 8), "labels alone 72.0%. The data without labels helped: 20 data are right"),
        ((70, 6, 5, 19), "The data without labels did not help: 6 data are right only with them"),
        ((70, 2, 20, 8), "The data without labels did harm: 2 data.*Raise alpha, start from"),
    ],
)
def test_the_verdict_says_whether_the_data_without_labels_helped(counts, said):
    found = two_by_two(*counts)
    (verdict,) = found.verdict
    assert verdict.startswith(f"{counts[0] + counts[1]}.0% of the data are classified rightly, ")
    assert re.search(said, verdict), verdict
    assert set(found.to_json()["quantities"]) == {"accuracy", "accuracy, labels alone", "gain"}


def test_a_report_has_the_accuracy_beside_that_of_the_labels_alone():
    log_joint = WORLD.log_joint(X)
    labels = log_joint.argmax(-1)
    labels[:10] = -1  # not known: these do not count
    wrong = (labels + 1) % 3
    report = pv.evaluate(
        *(PAIR, X),
        particles=2,
        diagnostics=[Accuracy(labels, lambda x: nn.functional.one_hot(wrong, 3)[-len(x) :])],
    )
    found = report.findings["accuracy"]
    assert found.accuracy.mean == 1.0  # tempered classes have the same order
    assert len(found.right) == 30
    assert not found.alone.any()
    assert "helped: 30 data are right only with them" in str(found).replace("\n", " ")
    assert found.tensors()["right"].all()


def test_batches_are_joined_in_order(monkeypatch):
    labels = WORLD.off_classes(X).argmax(-1)
    labels[::3] = (labels[::3] + 1) % 3
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 256 * 7)
    found = Accuracy(labels, particles=1)(PAIR, X)
    assert found.right.tolist() == [n % 3 != 0 for n in range(40)]


REFUSED = {
    "too few labels": (Accuracy(torch.zeros(3).long()), r"per datum, \(40,\); got \(3,\)$"),
    "none known": (Accuracy(torch.full((40,), -1)), "no datum has a label"),
    "no class": (Accuracy(torch.full((40,), 3)), "a label is 3, but the VAE has the classes 0 to"),
    "no site": (Accuracy(torch.zeros(40).long(), site="d"), r"enumerates the sites \['c'\]"),
    "x is none": (Accuracy(), r"got \(40, 2\): give Accuracy\(labels\)"),
    "one number": (
        Accuracy(torch.zeros(40).long(), lambda x: x[:, 0]),
        r"the other classifier returned shape \(40,\); wanted one number for each class",
    ),
}


@pytest.mark.parametrize(("accuracy", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_cannot_measure_is_said_in_one_line(accuracy, said):
    with pytest.raises(ValueError, match=said) as refused:
        accuracy(PAIR, X)
    assert "\n" not in str(refused.value)


def test_scores_that_are_no_numbers_are_of_no_class():
    """The largest of them would be the first: class 0, and right where the label is 0."""
    scores = torch.zeros(4, 3).masked_fill(torch.arange(4)[:, None] == 2, math.nan)
    with pytest.raises(ValueError, match="NaN for 1 of 4 data"):
        _right(scores, torch.zeros(4, dtype=torch.long), "the other classifier")


def test_a_vae_without_a_class_is_not_measurable():
    vae = pv.mlp_vae(2, latents=2, hidden=4)
    with pytest.raises(NotMeasurable, match="and x is no label: name one by site"):
        class_probabilities(vae, X.float().round().clamp(0, 1))


def test_the_label_s_network_has_an_output_for_each_class():
    label = pv.likelihoods.Label(MLP(2, 4), classes=3)
    with pytest.raises(ValueError, match="one output per class, 3; got 4"):
        label(torch.zeros(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="at least two classes; got 1"):
        pv.likelihoods.Label(MLP(2, 1), classes=1)


def test_labels_outside_the_classes_are_refused_before_training():
    vib = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Label(MLP(2, 3), classes=3),
        pv.guides.OfContext(pv.guides.MeanFieldNormal(MLP(4, 4))),
    )
    with pytest.raises(ValueError, match="Label takes values that are whole numbers from 0 to 2"):
        pv.fit(vib, (torch.tensor([0, 3]), torch.zeros(2, 4)), epochs=1, callbacks=[])
    with pytest.raises(ValueError, match="got x alone: give the data as"):
        vib.guide(torch.zeros(2))


def test_the_bottleneck_is_its_equation():
    """E log p(y | z) - beta KL, with the KL divergence in closed form."""
    torch.manual_seed(0)
    vib = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Label(MLP(2, 3), classes=3),
        pv.guides.OfContext(pv.guides.MeanFieldNormal(MLP(4, 4))),
    ).double()
    labels, image = torch.tensor([0.0, 2.0, 1.0]).double(), random(2, 3, 4)
    pair = pv.handlers.kl_weight(0.25).wrap(vib.model, vib.guide)
    with pv.seeded(0):
        found = pyro.infer.TraceMeanField_ELBO().loss(*pair, labels, image)
    q = vib.encode(labels, image)
    normal = torch.distributions.Normal
    with pv.seeded(0):
        z = q.rsample()
    kl = torch.distributions.kl_divergence(normal(q.mean, q.stddev), normal(0.0, 1.0)).sum()
    score = nn.functional.cross_entropy(vib.likelihood.net(z), labels.long(), reduction="sum")
    assert found == pytest.approx((score + 0.25 * kl).item(), rel=1e-9)
