"""Parts remember how they were made, and are made again without importing or unpickling."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import guides, parts, priors
from pyrovae.guides import FullRankNormal, LowRankNormal, MeanFieldNormal
from pyrovae.likelihoods import Bernoulli, Laplace, Normal
from pyrovae.nets import MLP, ConvDecoder, ConvEncoder
from pyrovae.priors import StandardNormal


class Shifted(parts.Part):
    """A part of a user's own: one part and a number."""

    def __init__(self, net, *, by=1.0):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, *inputs):
        return self.net(*inputs) + self.by


class Both(parts.Part):
    """A part of a user's own that runs two."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second


THREE = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 1.0], [0.5, 0.0, 4.0]])
PARTS = {
    "MLP": lambda: MLP(3, 4, 2),
    "MLP with tanh": lambda: MLP(3, 4, 2, activation=nn.Tanh),
    "ConvEncoder": lambda: ConvEncoder((1, 28, 28), 4, channels=2),
    "ConvDecoder": lambda: ConvDecoder(2, (1, 28, 28), channels=2),
    "StandardNormal": lambda: StandardNormal(2),
    "Bernoulli": lambda: Bernoulli(MLP(2, 3)),
    "Normal": lambda: Normal(MLP(2, 3), scale=0.5),
    "Laplace": lambda: Laplace(MLP(2, 6), scale="network"),
    "MeanFieldNormal": lambda: MeanFieldNormal(MLP(3, 4)),
    "FullRankNormal": lambda: FullRankNormal(net=MLP(3, 5)),
    "LowRankNormal": lambda: LowRankNormal(MLP(3, 6), rank=1),
    "guides.MixtureOfNormals": lambda: guides.MixtureOfNormals(MLP(3, 10), components=2),
    "priors.Normal": lambda: priors.Normal(2),
    "priors.Laplace": lambda: priors.Laplace(2),
    "StudentT": lambda: priors.StudentT(2, df=3),
    "priors.MixtureOfNormals": lambda: priors.MixtureOfNormals(2, 3, component="enumerated"),
    "VampPrior": lambda: priors.VampPrior(MeanFieldNormal(MLP(3, 4)), 2).start_at_data(THREE),
    "a user's, one network twice": lambda: Both(*[MLP(3, 2)] * 2),
    "a user's": lambda: Shifted(MLP(3, 2), by=0.5),
}
table = pytest.mark.parametrize("make", PARTS.values(), ids=PARTS.keys())


@table
def test_a_part_is_made_again_from_its_record_as_json(make):
    part = make()
    again = parts.build(json.loads(json.dumps(part.config)))
    assert type(again) is type(part)
    assert again.config == part.config
    again.load_state_dict(part.state_dict(), strict=True)
    assert str(again) == str(part)


@table
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_keeps_the_record(make, duplicate):
    part = make()
    assert duplicate(part).config == part.config


def test_the_activation_and_every_argument_are_kept():
    again = parts.build(json.loads(json.dumps(PARTS["MLP with tanh"]().config)))
    assert isinstance(again.layers[1], nn.Tanh)
    again = parts.build(PARTS["a user's"]().config)
    assert again.by == 0.5
    x = torch.zeros(2, 3)
    torch.testing.assert_close(again(x), again.net(x) + 0.5)


def test_two_parts_do_not_share_a_record():
    one, other = MLP(3, 2), MLP(3, 4)
    assert one.config["args"] == [3, 2]
    assert other.config["args"] == [3, 4]


def test_a_vae_records_its_three_parts():
    def prior():
        raise NotImplementedError

    vae = pv.VAE(prior, Bernoulli(MLP(2, 3)), MeanFieldNormal(MLP(3, 4)))
    config = json.loads(json.dumps(vae.config))
    assert config["prior"]["custom"].endswith("prior")
    assert isinstance(parts.build(config["likelihood"]), Bernoulli)
    assert isinstance(parts.build(config["guide"]), MeanFieldNormal)


OWN = {"a function": len, "a module": nn.Linear(2, 2), "a tensor": torch.zeros(2)}


@pytest.mark.parametrize("value", OWN.values(), ids=OWN.keys())
def test_a_program_that_is_no_part_is_named_and_asked_for(value):
    record = parts.describe(value)
    assert record.keys() == {"custom"}
    with pytest.raises(
        ValueError, match=f"'{record['custom']}' is not a pyrovae.parts.Part: pass"
    ):
        parts.build(record)


def test_a_part_around_a_program_of_ones_own_asks_for_the_program():
    with pytest.raises(ValueError, match="'Linear' is not a pyrovae.parts.Part.*pass it in"):
        parts.build(Bernoulli(nn.Linear(2, 3)).config)


@pytest.mark.parametrize(
    "name", ["os.system", "pyrovae.cli.main", "nowhere.Part", "torch.nn.Tanh"]
)
def test_a_class_that_is_no_part_is_refused_and_not_imported(name):
    before = set(sys.modules)
    with pytest.raises(ValueError, match=f"no part '{name}' is defined.*import the module"):
        parts.build({"part": name, "args": ["true"], "kwargs": {}})
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["NoSuchModule", "functional", "Parameter", "init"])
def test_a_name_in_torch_nn_that_is_no_module_is_refused(name):
    with pytest.raises(
        ValueError, match=f"torch.nn has no module '{name}'.*another version of torch"
    ):
        parts.build({"torch.nn": name})


class Widths(parts.Part):
    """A part of a user's own, whose arguments are a list, a tuple and numbers of numpy."""

    def __init__(self, hidden, shape, size, scale):
        super().__init__()
        self.sizes = [size, *hidden, 2] + [3]
        self.shape, self.scale = shape, scale


def test_lists_tuples_and_numpy_numbers_come_back_as_what_they_were():
    made = Widths([4, 5], (1, 2), np.int64(6), np.float64(0.5))
    again = parts.build(json.loads(json.dumps(made.config)))
    assert again.sizes == [6, 4, 5, 2, 3]
    assert again.shape == (1, 2)
    assert isinstance(again.scale, float)
    assert again.scale == 0.5


def together(first, second):
    config = json.loads(json.dumps(parts.describe_together(a=first, b=second)))
    shared = {}
    return parts.build(config["a"], shared), parts.build(config["b"], shared)


def test_one_part_in_two_places_is_one_part_again():
    net = MLP(3, 2)
    one, other = together(Shifted(net), Both(net, MLP(3, 2)))
    assert one.net is other.first
    assert other.second is not other.first
    inside = parts.build(json.loads(json.dumps(Both(net, net).config)))
    assert inside.first is inside.second


def test_equal_parts_and_copies_stay_apart():
    net = MLP(3, 2)
    one, other = together(net, copy.deepcopy(net))
    assert one is not other
    one, other = together(Shifted(net), Shifted(MLP(3, 2)))
    assert one.net is not other.net


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_of_two_that_share_shares_anew(duplicate):
    net = MLP(3, 2)
    first, second = duplicate((Shifted(net), Shifted(net)))
    one, other = together(first, second)
    assert one.net is other.net


def test_only_what_is_shared_is_numbered_and_what_is_inside_it_is_not():
    net = MLP(3, 4)
    guide = MeanFieldNormal(net)
    config = parts.describe_together(a=Shifted(guide), b=guide, c=MLP(3, 2))
    assert config["b"]["shared"] == config["a"]["args"][0]["shared"] == 1
    assert "shared" not in config["a"]
    assert "shared" not in config["b"]["args"][0]
    assert "shared" not in config["c"]
    one, other = together(Shifted(guide), Shifted(net))
    assert one.net.net is other.net
    assert "shared" not in guide.config
