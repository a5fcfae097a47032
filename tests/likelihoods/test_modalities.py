"""Several modalities in one tensor, and the likelihood of each."""

import math

import numpy
import pytest
import torch

import pyrovae as pv
from pyrovae.distributions import Present
from pyrovae.likelihoods import Bernoulli, Categorical, EachModality, Normal, Poisson
from pyrovae.nets import MLP, Modalities
from pyrovae.weights.observed import entries

BOTH = Modalities(image=4, label=1)


def likelihood():
    torch.manual_seed(0)
    label = Categorical(MLP(2, 3), classes=3)
    return EachModality(BOTH, label=label, image=Bernoulli(MLP(2, 4)))


X = torch.tensor([[0.0, 1.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 1.0, 0.0]])


def test_pack_and_split_undo_each_other():
    image, label = torch.rand(5, 2, 2), torch.arange(5)
    x, mask = BOTH.pack({"label": label, "image": image.numpy()})
    assert (x.shape, x.dtype) == ((5, 5), torch.float32)
    assert mask.all()
    pieces = BOTH.split(x)
    assert list(pieces) == ["image", "label"]
    assert torch.equal(pieces["image"], image.flatten(1))
    assert torch.equal(pieces["label"][:, 0], label.float())
    double, _ = BOTH.pack({"label": label, "image": numpy.zeros((5, 4))})
    assert double.dtype == torch.float64


def test_a_modality_is_missing_where_it_is_nan_or_none():
    image = torch.rand(3, 4)
    image[1] = math.nan
    x, mask = BOTH.pack({"image": image, "label": None}, value=0.5)
    assert mask.tolist() == [[True, False], [False, False], [True, False]]
    assert torch.equal(x[0, :4], image[0])
    assert (x[1] == 0.5).all()
    assert (x[:, 4] == 0.5).all()


def test_what_stands_for_missing_modalities_is_chosen_by_name():
    schema = pv.nets.Modalities(share=2, kind=1)
    share = torch.tensor([[0.5, 0.25], [torch.nan, torch.nan]], dtype=torch.float64)
    kind = torch.tensor([torch.nan, 1.0])
    x, mask = schema.pack({"share": share, "kind": kind}, value={"share": 0.5})
    assert x.tolist() == [[0.5, 0.25, 0.0], [0.5, 0.5, 1.0]]
    assert x.dtype == torch.float64
    assert mask.tolist() == [[True, False], [False, True]]
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.EachModality(
            schema,
            share=pv.likelihoods.Beta(pv.nets.MLP(2, 4)),
            kind=pv.likelihoods.Categorical(pv.nets.MLP(2, 3), classes=3),
        ),
        pv.guides.ProductOfExperts(schema, share=pv.nets.MLP(2, 4), kind=pv.nets.MLP(1, 4)),
    ).double()
    assert pv.evaluate(vae, (x, mask), particles=30, diagnostics=[]).elbo.value.isfinite().all()


def test_only_hides_the_other_modalities():
    mask = torch.tensor([[True, True], [False, True], [True, False]])
    assert BOTH.only(mask, "image").tolist() == [[True, False], [False, False], [True, False]]
    assert torch.equal(BOTH.only(mask, "label", "image"), mask)
    assert not BOTH.only(mask).any()


def test_the_score_is_the_sum_over_the_modalities_present():
    like, z = likelihood(), torch.tensor([[0.3, -1.0], [0.2, 2.0]])
    label, image = (like.likelihoods[n].observation(z) for n in (1, 0))
    alone = torch.stack([image.log_prob(X[:, :4]), label.log_prob(X[:, 4:])], 1)
    for mask in ([[True, True], [True, False]], [[False, True], [False, False]]):
        seen = torch.tensor(mask)
        found = like.observation(z, seen).log_prob(X)
        torch.testing.assert_close(found, (alone * seen).sum(1))
    torch.testing.assert_close(like.observation(z).log_prob(X), alone.sum(1))


def test_the_entries_of_missing_modalities_are_not_counted():
    mask = torch.tensor([[True, True], [False, True]])
    fn = likelihood().observation(torch.zeros(2, 2), mask)
    site = {"fn": fn.expand((1, 2)), "mask": None}
    assert entries([site], 2).tolist() == [5.0, 1.0]


def test_samples_and_means_are_complete():
    fn = likelihood().observation(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    assert fn.sample((7,)).shape == (7, 2, 5)
    assert torch.equal(fn.mean, likelihood().observation(torch.zeros(2, 2)).mean)


def test_a_distribution_of_present_data_keeps_its_mask_when_it_is_expanded():
    normal = torch.distributions.Normal(torch.zeros(2, 3), 1.0)
    base = torch.distributions.Independent(normal, 1)
    mask = torch.tensor([True, False])
    wide = Present(base, mask, torch.zeros(3)).expand((4, 2))
    x = torch.full((4, 2, 3), math.nan)
    x[:, 0] = 1.0
    wanted = torch.stack([base.log_prob(torch.ones(2, 3))[0], torch.zeros(())])
    assert torch.equal(wide.log_prob(x), wanted.expand(4, 2))
    assert wide.observed().shape == (4, 2, 3)


def test_each_modality_has_its_own_domain():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        likelihood(),
        pv.guides.ProductOfExperts(BOTH, image=MLP(4, 4), label=MLP(1, 4)),
    )
    bad = X.clone()
    bad[1, 4] = 3.0
    with pytest.raises(ValueError, match="whole numbers from 0 to 2; got 3 at row 1"):
        pv.evaluate(vae, bad, particles=2)
    with pytest.raises(ValueError, match=r"EachModality takes x of 5 columns; got shape \(2, 4\)"):
        pv.evaluate(vae, X[:, :4], particles=2)
    with pytest.raises(ValueError, match="5 columns; got shape"):
        pv.log_weights(vae, X[:, :4], particles=2)
    with pytest.raises(ValueError, match=r"shape \[N, 2\].* got shape \(2, 3\)"):
        pv.log_weights(vae, X, torch.ones(2, 3, dtype=torch.bool), particles=2)


def test_a_table_can_be_a_modality():
    table = pv.likelihoods.Columns([(Poisson(MLP(2, 1)), [1]), (Normal(MLP(2, 1)), [0])])
    mixed = Modalities(table=2, bits=3)
    like = EachModality(mixed, table=table, bits=Bernoulli(MLP(2, 3)))
    x, mask = mixed.pack({"table": torch.tensor([[0.5, 3.0]]), "bits": torch.ones(1, 3)})
    z = torch.zeros(1, 2)
    wanted = table.observation(z).log_prob(x[:, :2])
    found = like.observation(z, mixed.only(mask, "table")).log_prob(x)
    torch.testing.assert_close(found, wanted)
    assert like.domain.check(x).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got {'image': 0}"):
        Modalities(image=0)
    with pytest.raises(ValueError, match="got none"):
        Modalities()
    with pytest.raises(ValueError, match="same number of data"):
        BOTH.pack({"image": torch.zeros(3, 4), "label": torch.zeros(2)})
    with pytest.raises(ValueError, match="got None for each"):
        BOTH.pack({"image": None, "label": None})
    with pytest.raises(ValueError, match=r"takes one for each .*; got \['image'\]"):
        BOTH.pack({"image": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="'image' has 4 columns; got 6"):
        BOTH.pack({"image": torch.zeros(3, 6), "label": torch.zeros(3)})
    partly = torch.zeros(3, 4)
    partly[2, 1] = math.nan
    with pytest.raises(ValueError, match="'image' has NaN in some of its entries at row 2"):
        BOTH.pack({"image": partly, "label": torch.zeros(3)})
    with pytest.raises(
        ValueError, match=r"no modality \['text'\]: there are \['image', 'label'\]"
    ):
        BOTH.only(torch.ones(1, 2, dtype=torch.bool), "text")
    with pytest.raises(ValueError, match="Likelihood for 'label'; got Linear"):
        EachModality(BOTH, image=Bernoulli(MLP(2, 4)), label=torch.nn.Linear(2, 1))
    narrow = EachModality(BOTH, image=Bernoulli(MLP(2, 3)), label=Bernoulli(MLP(2, 1)))
    with pytest.raises(ValueError, match=r"'image' has event shape \(3,\); expected \(4,\)"):
        narrow.observation(torch.zeros(1, 2))
