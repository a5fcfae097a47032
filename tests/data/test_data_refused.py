"""What is no data for the programs is named, with the line that mends it, before any step."""

import math
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae.data.batches import Batches
from pyrovae.data.domains import check_context, check_domain, value_in
from pyrovae.weights.target import check_data

WIDTH = 3
X = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4


def small_vae(extra=0):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2 + extra, 8, WIDTH)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(WIDTH + extra, 8, 4)),
    )


def of_library(name, home, **methods):
    """Return an object that is of a class of another library, to go by its name."""
    return type(name, (), {"__module__": home, "__iter__": lambda _: iter("abc"), **methods})()


class Pairs(Dataset):
    """Items (image, label), as torchvision's data sets give them."""

    def __init__(self, x=X):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(LABELS[i])


class Drawings(Pairs):
    def __getitem__(self, i):
        return types.SimpleNamespace(), int(LABELS[i])


class Records(Pairs):
    def __getitem__(self, i):
        return {"image": self.x[i], "label": int(LABELS[i])}


REFUSED = {
    "a context that is a number": ((X, 3.0), r"one row per datum; got float"),
    "a data frame": (
        of_library("DataFrame", "pandas.core.frame"),
        r'got DataFrame: give torch\.from_numpy\(x\.to_numpy\("float32"\)\)',
    ),
    "a frame of polars": (
        of_library("DataFrame", "polars.dataframe.frame"),
        r"got DataFrame: give torch\.from_numpy\(x\.to_numpy\(\)\)\.float\(\)",
    ),
    "an array of another library": (
        of_library("Array", "jaxlib", __array__=lambda *_: np.zeros(3)),
        r"got Array: give torch\.from_numpy\(numpy\.asarray\(x\)\)",
    ),
    "a sparse tensor": (X.to_sparse(), r"sparse_coo: give x\.to_dense\(\)"),
    "a list of lists": (X.tolist(), r"list of numbers: give torch\.tensor\(data\)"),
    "a list of numbers": ([1.0, 2.0], r"got float"),
    "a list of arrays": (list(X.numpy()), r"ndarray .*: give torch\.from_numpy"),
    "a dictionary": ({"x": X}, r"got dict\. Give x by itself"),
    "a string": ("train.csv", r"got str\. Give x by itself"),
    "batches that are dictionaries": (Records(), r"keys \['image', 'label'\]: give batch\[key\]"),
    "items that are no tensors": (Drawings(), r"SimpleNamespace.*ToTensor\(\)"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize(
    "use",
    [
        lambda vae, data: pv.fit(vae, data, epochs=1, callbacks=[]),
        lambda vae, data: pv.evaluate(vae, data, particles=2),
    ],
    ids=["fit", "evaluate"],
)
def test_what_is_no_data_is_named_with_the_line_that_mends_it(given, message, use):
    with pytest.raises(ValueError, match=message) as caught:
        use(small_vae(), given)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "use",
    [
        lambda vae, x: vae.guide(x),
        lambda vae, x: vae.model(x),
    ],
)
def test_a_program_takes_tensors_alone(use):
    with pytest.raises(ValueError, match=r"ndarray: give torch\.from_numpy"):
        use(small_vae(), X.numpy())


LABELLED = {
    "a tuple": (X, LABELS),
    "a tensor data set": TensorDataset(X, LABELS),
    "a data set": Pairs(),
    "batches": [(X, LABELS)],
}


@pytest.mark.parametrize("given", LABELLED.values(), ids=LABELLED.keys())
def test_labels_that_are_taken_for_context_are_named(given):
    with pytest.raises(ValueError, match="what follows x .* is context.*give x by itself") as met:
        pv.fit(small_vae(), given, epochs=1, callbacks=[])
    assert met.value.__cause__ is not None
    with pytest.raises(ValueError, match=r"one_hot\(label, classes\).*give x alone"):
        pv.evaluate(small_vae(), given, particles=2)


def test_a_label_as_context_trains_the_way_that_the_error_says():
    one_hot = nn.functional.one_hot(LABELS, 4).float()
    for width, label in ((4, one_hot), (1, LABELS[:, None].float())):
        vae = small_vae(width)
        pv.fit(vae, (X, label), epochs=1, callbacks=[])
        own, other = (
            pv.evaluate(vae, (X, given), particles=5).elbo.value for given in (label, label + 1)
        )
        assert (own != other).any(), "the programs do not read the label"


IMAGES = [
    ((9, 8, 8, 3), r"x\.movedim\(-1, 1\)\.flatten\(1\)"),
    ((9, 3, 8, 8), r"(images:|give) x\.flatten\(1\)"),
]


@pytest.mark.parametrize(("shape", "line"), IMAGES)
def test_images_are_flattened_channel_by_channel(shape, line):
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.ConvDecoder(2, (3, 8, 8), channels=2)),
        pv.guides.MeanFieldNormal(pv.nets.ConvEncoder((3, 8, 8), 4, channels=2)),
    )
    with pytest.raises(ValueError, match=line):
        pv.fit(vae, torch.rand(shape), epochs=1, callbacks=[])


@pytest.mark.parametrize(("shape", "line"), IMAGES)
def test_a_site_that_observes_images_says_how_they_are_flattened(shape, line):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(192), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(192), 1.0).to_event(1))

    for shape, line in (
        ((9, 8, 8, 3), r"x\.movedim\(-1, 1\)"),
        ((9, 3, 8, 8), r"x\.flatten\(1\)"),
    ):
        with pytest.raises(ValueError, match=line):
            pv.log_weights((model, guide), torch.rand(shape), particles=2)


# Contexts and masks.


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (torch.full((20, 1), math.nan), "context 1 has NaN or infinite values in 20 of 20 rows"),
        (torch.tensor([0.0] * 19 + [math.inf]), "in 1 of 20 rows, the first inf at row 19"),
        (torch.tensor([0, 1, -1, 2, -1] * 4), r"below 0 in 8 of 20 rows.*-1 at row 2: pandas"),
    ],
)
def test_contexts_are_looked_at_as_x_is(context, message):
    vae = small_vae(1)
    with pytest.raises(ValueError, match=message):
        pv.fit(vae, (X, context), epochs=1, callbacks=[])
    with pytest.raises(ValueError, match=message):
        pv.evaluate(vae, (X, context), particles=2)
    good = torch.zeros(20, 1)
    with pytest.raises(ValueError, match=message):
        pv.fit(vae, (X, good), validation=(X, context), epochs=1, callbacks=[])


def test_contexts_that_programs_can_take_pass():
    negative, mask = -torch.ones(3), torch.tensor([True, False, True])
    check_context([negative, mask, torch.arange(3), torch.tensor(-2), "a word", None])


class TestMissingEntries:
    MASK = torch.tensor([[True, True, False]]).repeat(20, 1)

    @pytest.mark.parametrize(
        ("make", "observed", "bad", "line"),
        [
            (pv.likelihoods.Beta, 0.5, 0.0, r"torch\.where\(mask, x, 0\.5\)"),
            (pv.likelihoods.Poisson, 2.0, -1.0, r"torch\.where\(mask, x, 0\.0\)"),
            (pv.likelihoods.Bernoulli, 1.0, 9.0, r"torch\.where\(mask, x, 0\.0\)"),
        ],
    )
    def test_are_told_from_observed_ones(self, make, observed, bad, line):
        width = 2 * WIDTH if make is pv.likelihoods.Beta else WIDTH
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Masked(make(pv.nets.MLP(2, 8, width))),
            pv.guides.MeanFieldNormal(pv.nets.HideMissing(pv.nets.MLP(WIDTH, 8, 4))),
        )
        x = torch.full((20, WIDTH), observed)
        filled = torch.where(self.MASK, x, bad)
        for use in (
            lambda data: pv.fit(vae, data, epochs=1, callbacks=[]),
            lambda data: pv.evaluate(vae, data, particles=2),
        ):
            with pytest.raises(
                ValueError, match=rf"got {bad:g} at row 0, a missing entry.*{line}"
            ):
                use((filled, self.MASK))
            with pytest.raises(ValueError, match=rf"got {bad:g} at row 0\. (?!What)"):
                use((filled, ~self.MASK))
            use((torch.where(self.MASK, x, value_in(vae.likelihood.domain)), self.MASK))

    def test_are_told_apart_column_by_column(self):
        domain = constraints.stack([constraints.real, constraints.positive, constraints.boolean])
        x = torch.tensor([[1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
        mask = torch.tensor([[True, True, True], [True, False, True]])
        with pytest.raises(ValueError, match="column 1 .* got 0 at row 1, a missing entry"):
            check_domain(x, domain, "Columns", mask=mask)
        check_domain(torch.where(mask, x, value_in(domain)), domain, "Columns", mask=mask)

    def test_of_a_likelihood_of_ones_own_are_known_by_their_mask(self):
        own = types.SimpleNamespace(domain=constraints.positive)
        target = types.SimpleNamespace(likelihood=own)
        x = torch.tensor([[1.0, 0.0]])
        with pytest.raises(ValueError, match="at row 0, a missing entry"):
            check_data(target, x, torch.tensor([[True, False]]))


# Streams.


class Stream(IterableDataset):
    """Rows that are counted as they are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __iter__(self):
        for row in X.repeat(5, 1)[: self.rows]:
            self.read += 1
            yield row


def test_a_stream_is_read_once_an_epoch_and_not_to_be_counted():
    """Beside the epochs: a batch for the checks, and the monitor's first data at each end."""
    stream, batches = Stream(100), []

    class Watch(pv.Callback):
        def started(self, training):
            batches.append(training.batches)

        def finished_epoch(self, training):
            batches.append(training.batches)

    asked = []
    step = pv.Step(kl_weight=lambda epochs: asked.append(epochs) or 1.0)
    pv.fit(small_vae(), stream, epochs=2, batch_size=40, step=step, callbacks=[Watch()])
    assert stream.read == 100 + 2 * (100 + 100)
    assert batches == [None, 3, 3]
    assert asked == [0.0, 0.0, 0.0, 1.0, 1 + 1 / 3, 1 + 2 / 3]


def test_a_stream_is_evaluated_in_one_pass():
    stream = Stream(100)
    assert len(pv.evaluate(small_vae(), stream, particles=2, batch_size=40).elbo.value) == 100
    assert stream.read == 100


def test_batches_of_a_stream_have_no_length_before_they_were_walked_over():
    batches = Batches(Stream(100), 40)
    with pytest.raises(TypeError, match="a stream has no length"):
        len(batches)
    assert [len(x) for (x,) in batches] == [40, 40, 20]
    assert len(batches) == 3


def test_a_stream_without_rows_is_refused():
    with pytest.raises(ValueError, match="the data are empty"):
        pv.fit(small_vae(), Stream(0), epochs=1, callbacks=[])
    with pytest.raises(ValueError, match="the data are empty"):
        pv.evaluate(small_vae(), Stream(0), particles=2)


# Errors within an epoch.


class OfBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.norm = nn.Linear(2, WIDTH), nn.BatchNorm1d(WIDTH)

    def forward(self, z, x=None):
        mean = self.norm(self.net(z).reshape(-1, WIDTH)).reshape(*z.shape[:-1], WIDTH)
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def causes(error):
    """Return the errors behind an error."""
    return [] if error is None else [error.__cause__, *causes(error.__cause__)]


def test_a_last_batch_of_one_row_is_named_in_one_sentence_before_the_first_step():
    vae, steps = small_vae(), []
    vae = pv.VAE(vae.prior, OfBatches(), vae.posterior)

    class Watch(pv.Callback):
        def stepped(self, training):
            steps.append(training.step)

    with pytest.raises(ValueError, match=r"One datum.*batch_size") as caught:
        pv.fit(vae, X, epochs=1, batch_size=19, callbacks=[Watch()])
    said = str(caught.value)
    assert "Expected more than 1 value per channel" in said
    assert "Trace Shapes" not in said
    assert "\n" not in said
    assert any("Trace Shapes" in str(error) for error in causes(caught.value))
    assert steps == []
    pv.fit(vae, X, epochs=1, batch_size=18, callbacks=[Watch()])
    assert steps == [1, 2]


def test_what_torch_says_within_an_epoch_is_one_sentence_with_the_step():
    batches = [X, X[:, :2]]
    vae = small_vae()
    vae = pv.VAE(vae.prior, OfBatches(), vae.posterior)
    for data in (batches, [X, X[:1]]):
        with pytest.raises(ValueError, match=r"at step 2 \(epoch 1\), on x \(") as caught:
            pv.fit(vae, data, epochs=1, callbacks=[])
        assert "Trace Shapes" not in str(caught.value)
        assert caught.value.__cause__ is not None


def test_memory_that_runs_out_keeps_its_class():
    class Large(OfBatches):
        calls = 0

        def forward(self, z, x=None):
            Large.calls += 1
            if Large.calls > 6:
                raise torch.OutOfMemoryError("4 GiB more")
            return super().forward(z, x)

    vae = small_vae()
    with pytest.raises(torch.OutOfMemoryError, match=r"^4 GiB more$"):
        pv.fit(pv.VAE(vae.prior, Large(), vae.posterior), X, epochs=9, callbacks=[])


def test_measurements_keep_pyros_table_of_shapes_behind_the_sentence():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.ones(3, 3), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        pv.log_weights((model, guide), X, particles=2)
    assert "Trace Shapes" not in str(caught.value)
    assert "Trace Shapes" in str(caught.value.__cause__)
