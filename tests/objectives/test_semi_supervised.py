"""The objective of M2, where L, U and q(y | x) are known by explicit sums."""

import functools
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.poutine import block, condition, scale
from torch import nn
from worlds import ENUMERATE, Mixture, data_plate, random

import pyrovae as pv
from pyrovae.nets import MLP
from pyrovae.objectives import SemiSupervised
from pyrovae.train.svi import SVI

ROWS, ALPHA = 7, 0.3


def by_hand(world, x, labeled, label, *, share=1.0, alpha=ALPHA):
    """Return the loss of a batch whose labeled data are copies of one datum.

    In `Mixture`, q(z | x, c) is exact, so L(x, c) = log p(x, c) whatever z is drawn.
    """
    q = world.off_classes(x)
    u = (q * (world.log_joint(x) - q.log())).sum()
    known = share * world.log_joint(labeled)[0, label]
    return -u - len(x) * (known + alpha * world.off_classes(labeled)[0, label].log())


@pytest.mark.parametrize("continuous", [False, True])
def test_the_value_is_the_sum_by_hand(continuous):
    world = Mixture(continuous=continuous)
    x, labeled = world.sample(ROWS), world.sample(1)
    objective = SemiSupervised(labeled, [2], alpha=ALPHA)
    found = objective.loss(world.model, world.guide_enumerated, x)
    assert found == pytest.approx(by_hand(world, x, labeled, 2).item(), rel=1e-12)


def test_labels_count_by_their_share_of_the_rows():
    world = Mixture()
    x, rows = world.sample(ROWS), world.sample(4)
    objective = SemiSupervised(rows, torch.tensor([-1, -1, 1, -1]), alpha=ALPHA)
    found = objective.loss(world.model, world.guide_enumerated, x)
    wanted = by_hand(world, x, rows[2:3], 1, share=0.25)
    assert found == pytest.approx(wanted.item(), rel=1e-12)


def test_the_mean_over_draws_is_the_paper_s_objective():
    """J = sum of U over all rows + sum of L over labeled rows + alpha N mean log q, per datum."""
    world = Mixture()
    rows, labels = world.sample(6), torch.tensor([0, -1, 2, -1, 1, -1])
    objective = SemiSupervised(rows, labels, alpha=ALPHA)
    losses = torch.tensor(
        [objective.loss(world.model, world.guide_enumerated, rows) for _ in range(300)],
        dtype=torch.float64,
    )
    known = labels >= 0
    q, joint = world.off_classes(rows), world.log_joint(rows)
    u = (q * (joint - q.log())).sum()
    labeled = joint[known].gather(1, labels[known, None]).sum()
    classifier = q[known].log().gather(1, labels[known, None]).mean()
    wanted = -(u + labeled + ALPHA * len(rows) * classifier)
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - wanted) < 4 * error  # 1 in 16,000 by chance; the seed is fixed


def test_the_scale_of_a_subsampling_plate_multiplies_each_term():
    world = Mixture()
    x, labeled = world.sample(ROWS), world.sample(1)

    def sized(program, x, *, size):
        with scale(scale=size / len(x)):
            program(x)

    pair = [functools.partial(sized, p) for p in (world.model, world.guide_enumerated)]
    objective = SemiSupervised(labeled, [0], alpha=ALPHA)
    found = objective.loss(*pair, x, size=10 * ROWS)
    assert found == pytest.approx(10 * by_hand(world, x, labeled, 0).item(), rel=1e-12)


@pytest.mark.parametrize("around", [1.0, 0.25])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [None, 5 * ROWS])
def test_a_kl_weight_leaves_the_term_of_the_classifier_as_it_is(beta, around, size):
    """Labels train the classifier from the start of an annealing, by the scale of the data."""
    vae, labels = m2(), torch.tensor([2])
    labeled, x = X[:1], X[:ROWS]
    pair = [scale(p, around) for p in pv.handlers.kl_weight(beta).wrap(vae.model, vae.guide)]

    def loss(alpha):
        with pv.seeded(0):
            objective = SemiSupervised(labeled, labels, alpha=alpha)
            return objective.loss(*pair, x, size=size)

    log_q = vae.posterior.parts[0].net(labeled).log_softmax(-1)[0, 2].item()
    wanted = -10 * around * (size or ROWS) * log_q
    assert loss(10.0) - loss(0.0) == pytest.approx(wanted, rel=1e-9)


def m2(seed=0, *, width=5, classes=3, dropout=0.0):
    """Return a small M2 in double precision."""
    torch.manual_seed(seed)
    p, q = pv.priors, pv.guides
    classifier = nn.Sequential(nn.Dropout(dropout), MLP(width, 6, classes))
    return pv.VAE(
        p.Joint(y=p.Categorical(classes), z=p.StandardNormal(2)),
        pv.likelihoods.Bernoulli(MLP(classes + 2, 6, width)),
        q.Joint(y=q.Categorical(classifier), z=q.MeanFieldNormal(MLP(width + classes, 6, 4))),
    ).double()


X = (random(7, 12, 5) > 0).double()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, -1, -1, -1, -1])


def gradients(vae, loss_and_grads):
    vae.zero_grad()
    with pv.seeded(3):
        value = loss_and_grads()
    return value, {name: p.grad.clone() for name, p in vae.named_parameters()}


def test_value_and_gradients_are_those_of_pyro_s_bounds_of_the_pieces():
    vae, elbo = m2(), TraceEnum_ELBO(max_plate_nesting=1)
    objective = SemiSupervised(X, LABELS, alpha=ALPHA)

    def pieces():
        labels, labeled = objective.draw(X)
        known = {"y": labels}
        model, guide = (condition(p, known) for p in (vae.model, vae.guide))
        share = [scale(p, 0.5) for p in (model, block(guide, hide=["y"]))]
        value = elbo.loss_and_grads(*share, labeled)
        value += elbo.loss_and_grads(vae.model, vae.guide, X)
        only_class = scale(block(guide, hide=["z"]), ALPHA)
        return value + elbo.loss_and_grads(only_class, lambda x: None, labeled)

    wanted = gradients(vae, pieces)
    found = gradients(vae, lambda: objective.loss_and_grads(vae.model, vae.guide, X))
    assert found[0] == pytest.approx(wanted[0], rel=1e-12)
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-9)
        assert (gradient != 0).any(), name


def trained(kind):
    vae, x = m2(dropout=0.3).float(), 0.2 + 0.6 * X.float()
    data = pv.data.Split(x, dynamic=True)
    objective = SemiSupervised(data, LABELS, alpha=1.0)
    svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), objective)
    with pv.seeded(0):
        losses = [svi.step(torch.bernoulli(x)) for _ in range(6)]
    return svi, torch.tensor(losses), torch.cat([p.flatten() for p in vae.parameters()])


def test_pyro_s_svi_the_eager_step_and_the_compiled_step_train_alike(interpreted):
    """With dropout and dynamic binarization: all draws come in the same order."""
    eager = functools.partial(SVI, compile=False)
    kinds = (pyro.infer.SVI, eager, SVI)
    (_, wanted, then), (_, *same), (svi, *compiled) = map(trained, kinds)
    assert svi.compiled
    assert len(svi.graphs) == 1
    for losses, parameters in (same, compiled):
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parameters, then, rtol=1e-4, atol=1e-5)


def test_a_dynamic_split_is_binarized_anew_at_each_draw():
    data = pv.data.Split(torch.full((3, 50), 0.5), dynamic=True)
    objective = SemiSupervised(data, [0, 1, 0])
    first, second = (objective.draw(torch.zeros(20, 50))[1] for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    assert abs(first.mean() - 0.5) < 4 * 0.5 / 1000**0.5


def test_context_is_drawn_with_the_rows_that_it_belongs_to():
    x, labels = torch.arange(6.0).unsqueeze(-1), torch.tensor([0, -1, 1, -1, 0, 1])
    objective = SemiSupervised((x, 10 * x, x.numpy()), labels)
    drawn, rows, *context = objective.draw(torch.zeros(40, 1), None, None)
    assert set(rows.flatten().tolist()) == {0.0, 2.0, 4.0, 5.0}
    assert torch.equal(context[0], 10 * rows)
    assert torch.equal(context[1], rows)
    assert torch.equal(drawn, labels[rows.long().flatten()])


def test_a_one_hot_class_is_observed_at_its_vector():
    indices = m2()
    vectors = pv.VAE(
        pv.priors.Joint(y=pv.priors.OneHot(3), z=indices.prior.parts[1]).double(),
        indices.likelihood,
        pv.guides.Joint(
            y=pv.guides.OneHot(indices.posterior.parts[0].net), z=indices.posterior.parts[1]
        ),
    )
    found = []
    for vae in (indices, vectors):
        with pv.seeded(0):
            found.append(SemiSupervised(X, LABELS).loss(vae.model, vae.guide, X))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


CORNERS = 2.0 * torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])


def blobs(n, seed=0):
    """Draw three classes, at corners four scales apart or more, and their labels."""
    with pv.seeded(seed):
        labels = torch.randint(3, (n,))
        return CORNERS[labels] + 0.5 * torch.randn(n, 2), labels


def log_p(x):
    """Return the mean of log p(x) of `blobs`, the most that a model can have of many data."""
    log_joint = dist.Normal(CORNERS, 0.5).log_prob(x.unsqueeze(1)).sum(-1) - np.log(3)
    return log_joint.logsumexp(-1).mean().item()


def test_fit_learns_the_classes_from_one_label_each_and_still_measures_log_p():
    x, labels = blobs(300)
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(3)])
    partly = torch.full_like(labels, -1)
    partly[first] = labels[first]
    torch.manual_seed(0)
    p, q = pv.priors, pv.guides
    vae = pv.VAE(
        p.Joint(y=p.Categorical(3), z=p.StandardNormal(1)),
        pv.likelihoods.Normal(MLP(3 + 1, 2)),
        q.Joint(y=q.Categorical(MLP(2, 3)), z=q.MeanFieldNormal(MLP(2 + 3, 2))),
    )
    step = pv.Step(pyro.optim.Adam({"lr": 0.05}), loss=SemiSupervised(x, partly, alpha=1.0))
    history = pv.fit(vae, x, epochs=25, batch_size=50, step=step, callbacks=[])
    fresh, wanted = blobs(300, seed=1)
    found = vae.encode(fresh, site="y").probs.argmax(-1)
    assert (found == wanted).double().mean() > 0.98
    report = pv.evaluate(vae, fresh, particles=50)
    assert log_p(fresh) - 0.1 < report.iwae[50].mean < log_p(fresh) + 0.01
    assert history.column("elbo")[-1] == pytest.approx(pv.evaluate(vae, x).elbo.mean, abs=0.1)


BAD = {
    "floats": (torch.zeros(12), r"whole numbers, of classes; got torch.float32: y.long\(\)"),
    "NaN": (torch.tensor([0.0, torch.nan] * 6), "got NaN in 6 of 12 rows: write -1"),
    "too few": (LABELS[:11], r"got 12 rows of x and labels of shape \(11,\): write -1"),
    "one-hot": (torch.eye(12).long(), r"labels of shape \(12, 12\)"),
    "none": (torch.full((12,), -1), "got -1 alone: without a label, train by the ELBO"),
    "below": (np.array([-2] + [0] * 11), "0, 1, ... of classes, or -1 if not known; got -2$"),
}


@pytest.mark.parametrize(("labels", "said"), BAD.values(), ids=BAD.keys())
def test_labels_that_are_no_classes_are_refused(labels, said):
    with pytest.raises(ValueError, match=said) as refused:
        SemiSupervised(X, labels)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be 0 or more and finite"):
        SemiSupervised(X, LABELS, alpha=alpha)


def test_data_that_are_not_finite_or_no_rows_are_refused():
    with pytest.raises(ValueError, match="x has NaN or infinite values in 1 of 12 data"):
        SemiSupervised(torch.where(torch.arange(60).reshape(12, 5) == 7, torch.nan, X), LABELS)
    with pytest.raises(ValueError, match="x must be a tensor"):
        SemiSupervised(pv.data.load("digits"), LABELS)


def test_a_label_outside_the_classes_is_refused():
    vae = m2()
    objective = SemiSupervised(X, LABELS + 1)
    with pytest.raises(
        ValueError, match="a label is 3, but .* site 'y' has the classes 0 to 2"
    ) as e:
        objective.loss(vae.model, vae.guide, X)
    assert "\n" not in str(e.value)


def test_a_guide_without_a_class_is_refused():
    plain = pv.mlp_vae(5, latents=2, hidden=4).double()
    with pytest.raises(ValueError, match="the guide enumerates no site, so it has no class"):
        SemiSupervised(X, LABELS).loss(plain.model, plain.guide, X)
    vae = m2()
    with pytest.raises(ValueError, match="the guide enumerates no site 'c', so it has no class"):
        SemiSupervised(X, LABELS, site="c").loss(vae.model, vae.guide, X)


def two_classes(x):
    with data_plate(x):
        pyro.sample("c", dist.Categorical(torch.ones(3).double()), infer=ENUMERATE)
        pyro.sample("d", dist.Categorical(torch.ones(2).double()), infer=ENUMERATE)


def with_two_classes(x):
    with data_plate(x):
        c = pyro.sample("c", dist.Categorical(torch.ones(3).double()), infer=ENUMERATE)
        d = pyro.sample("d", dist.Categorical(torch.ones(2).double()), infer=ENUMERATE)
        loc = (c + 10 * d).unsqueeze(-1).double()
        pyro.sample("x", dist.Normal(loc, 1.0).expand([*loc.shape[:-1], 5]).to_event(1), obs=x)


def test_of_several_enumerated_sites_the_class_is_named():
    with pytest.raises(ValueError, match="enumerates the sites 'c' and 'd': name that of the cl"):
        SemiSupervised(X, LABELS).loss(with_two_classes, two_classes, X)
    objective = SemiSupervised(X[:1], [2], alpha=0.0, site="c")
    log_p = (
        dist.Normal(
            (torch.arange(3.0)[:, None] + 10 * torch.arange(2.0)).double()[..., None, None], 1.0
        )
        .log_prob(X)
        .sum(-1)
    )  # [3 c, 2 d, N]; q is uniform as p is, so its terms cancel
    labeled = log_p[2, :, 0].mean() - torch.tensor(3.0).log()
    wanted = -log_p.mean((0, 1)).sum() - len(X) * labeled
    found = objective.loss(with_two_classes, two_classes, X)
    assert found == pytest.approx(wanted.item(), rel=1e-6)


def test_labeled_data_of_other_arguments_than_the_batch_are_refused():
    vae = m2()
    with pytest.raises(
        ValueError, match="labeled data are 1 tensors on cpu, but a batch has 2 on"
    ):
        SemiSupervised(X, LABELS).loss(vae.model, vae.guide, X, X)


def test_it_says_what_it_is():
    assert str(SemiSupervised(X, LABELS)) == "the semi-supervised bound, 6 labels, alpha 0.1"
    assert replace(pv.Step(), loss=SemiSupervised(X, LABELS)).loss is not None
