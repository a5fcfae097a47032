"""Arrays, frames and sparse matrices become the tensors that one would have made by hand."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.distributions import constraints
from torch.utils.data import DataLoader, Dataset

import pyrovae as pv
from pyrovae.data import Batches, Intake, Labeled, tensors
from pyrovae.data.arrays import numbers
from pyrovae.measure import novelty
from pyrovae.weights.target import intake_of

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

WIDTH, ROWS = 6, 50
LEVELS = np.random.default_rng(0).integers(0, 256, (ROWS, WIDTH), dtype="uint8")
COUNTS = np.random.default_rng(1).poisson(1.0, (ROWS, WIDTH))
NAMES = list("abcdef")


def vae(likelihood, outputs=1, width=WIDTH, **settings):
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        likelihood(pv.nets.MLP(2, 8, outputs * width), **settings),
        pv.guides.MeanFieldNormal(pv.nets.MLP(width, 8, 4)),
    )


def elbo(data, target=None, **settings):
    target = target or vae(pv.likelihoods.Poisson)
    return pv.evaluate(target, data, particles=5, **settings).elbo.value


def trained(data, **settings):
    target = vae(pv.likelihoods.Poisson)
    history = pv.fit(target, data, epochs=2, batch_size=16, callbacks=[], **settings)
    return history.column("elbo")


BYTES = [
    (constraints.unit_interval, LEVELS / 255),
    (constraints.integer_interval(0, 255), LEVELS),
    (constraints.nonnegative_integer, LEVELS),
]


@pytest.mark.parametrize(("domain", "wanted"), BYTES, ids=["unit", "levels", "counts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_become_what_the_domain_asks(domain, wanted, dtype):
    for x in (LEVELS, torch.from_numpy(LEVELS)):
        (found,) = tensors(Intake(dtype, domain), x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, torch.tensor(wanted).to(dtype), rtol=1e-7, atol=0)


def test_bytes_train_a_likelihood_of_intensities_and_one_of_levels():
    for target, x in (
        (vae(pv.likelihoods.ContinuousBernoulli), torch.tensor(LEVELS) / 255),
        (vae(pv.likelihoods.Categorical, 256), torch.tensor(LEVELS).float()),
    ):
        assert torch.equal(elbo(LEVELS, target), elbo(x, target))
        pv.fit(target, LEVELS, epochs=1, callbacks=[])


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (constraints.real, r"takes any real numbers: give x / 255 .* or x\.astype"),
        (None, r"states no domain: give x / 255"),
        (constraints.boolean, r"up to 25\d, and the likelihood takes 0 or 1: give x > 127, or"),
    ],
)
def test_bytes_that_can_be_read_in_two_ways_are_asked_about(domain, message):
    with pytest.raises(ValueError, match=message) as caught:
        tensors(Intake(domain=domain), LEVELS)
    assert "\n" not in str(caught.value)


DTYPES = "float16 float32 float64 longdouble int8 int64 uint16 uint32 >f8 >i4".split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_numpy_becomes_that_of_the_parameters(dtype):
    (found,) = tensors(Intake(torch.float32, constraints.real), COUNTS.astype(dtype))
    assert torch.equal(found, torch.from_numpy(COUNTS).float())


def test_arrays_that_torch_cannot_hold_as_they_are_are_copied():
    x = np.arange(12.0).reshape(6, 2)
    frozen = x.astype("float32")
    frozen.flags.writeable = False
    for array in (x[::-1], x.T.copy().T, frozen[::-1]):
        (found,) = tensors(Intake(), array)
        assert found.tolist() == array.tolist()
    (found,) = tensors(Intake(), frozen)
    found += 1
    assert frozen[0, 0] == 0


def test_booleans_are_zero_and_one_as_x_and_stay_so_as_context():
    x, mask, code, size = tensors(Intake(), *[np.array([True])] * 2, np.uint8([3]), np.ones(1))
    assert (x.dtype, mask.dtype) == (torch.float32, torch.bool)
    assert (code.dtype, size.dtype) == (torch.int64, torch.float32)


def test_the_intake_of_a_vae_is_its_dtype_and_domain():
    found = intake_of(vae(pv.likelihoods.Poisson).double())
    assert (found.dtype, found.domain) == (torch.float64, constraints.nonnegative_integer)
    assert intake_of((lambda x: None, lambda x: None)).dtype is None


def test_whole_numbers_beyond_a_float_are_refused():
    exact = torch.tensor([2**24, -(2**24), 2**30])
    assert numbers(exact, torch.float32).tolist() == exact.tolist()
    with pytest.raises(ValueError, match=r"16777217, which torch\.float32 does not hold exactly"):
        numbers(torch.tensor([0, 2**24 + 1]), torch.float32)
    numbers(torch.tensor([2**24 + 1]), torch.float64)


def test_channels_last_are_recognized_where_that_is_certain():
    last = np.random.default_rng(0).random((5, 8, 7, 3))
    (found,) = tensors(Intake(torch.float64), last)
    assert torch.equal(found, torch.from_numpy(last).permute(0, 3, 1, 2))
    (kept,) = tensors(Intake(torch.float64), last.transpose(0, 3, 1, 2))
    assert torch.equal(kept, found)
    with pytest.raises(ValueError, match="channels first or last: give"):
        tensors(Intake(), np.zeros((5, 3, 8, 4)))


REFUSED = {
    "words": (np.array([["a"]]), "x must be numeric; got an array of <U1"),
    "objects": (np.array([[None]]), "x must be numeric; got an array of object"),
    "dates": (np.array(["2020-01-01"], dtype="datetime64[D]"), "give days or seconds"),
    "complex": (np.ones((2, 2)) * 1j, "real and imaginary parts as columns"),
    "hidden": (np.ma.masked_array(COUNTS, COUNTS > 2), r"give x\.filled\(0\) as x, and the mask"),
    "huge": (np.array([[2**64 - 1]], dtype="uint64"), "above 2\\^63 - 1: give floats"),
    "rows": (list(COUNTS), r"must yield batches .* shape \(6,\): give .*numpy\.stack\(data\)"),
    "a column of words": (pandas.DataFrame({"b": ["x"]}), "the column 'b' is not numeric but Str"),
    "a category": (polars.DataFrame({"b": ["x"]}).cast(polars.Categorical), "'b' is not numeric"),
    "lazy": (polars.LazyFrame({"a": [1]}), r"give frame\.collect\(\)"),
    "no columns": (pandas.DataFrame(index=[1, 2]), "the frame has no columns"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_numeric_is_refused_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        pv.fit(vae(pv.likelihoods.Normal, width=1), data, epochs=1, callbacks=[])
    assert "\n" not in str(caught.value)


FORMS = {
    "an array of integers": COUNTS,
    "an array of float64": COUNTS.astype("float64"),
    "a sparse matrix": sparse.csr_matrix(COUNTS),
    "a sparse array by columns": sparse.csc_array(COUNTS.astype("float32")),
    "pandas": pandas.DataFrame(COUNTS, columns=NAMES),
    "pandas, nullable": pandas.DataFrame(COUNTS, columns=NAMES).astype("Int16"),
    "pandas, columns by number": pandas.DataFrame(COUNTS),
    "polars": polars.DataFrame(COUNTS, schema=NAMES),
    "arrow": pyarrow.table(dict(zip(NAMES, COUNTS.T, strict=True))),
    "a tuple": (COUNTS,),
}
DENSE = torch.from_numpy(COUNTS).float()


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS.keys())
def test_every_form_trains_and_is_measured_as_the_dense_tensor(data):
    assert torch.equal(elbo(data), elbo(DENSE))
    assert trained(data) == trained(DENSE)
    x = data[0] if isinstance(data, tuple) else data
    with pv.seeded(0):
        found = pv.log_weights(vae(pv.likelihoods.Poisson), x, particles=3)
    with pv.seeded(0):
        assert torch.equal(found, pv.log_weights(vae(pv.likelihoods.Poisson), DENSE, particles=3))


def test_a_frame_with_columns_by_number_is_embedded_and_probed():
    frame, target, y = pandas.DataFrame(COUNTS), vae(pv.likelihoods.Poisson), COUNTS[:, 0] > 0
    assert torch.equal(target.embed(frame), target.embed(DENSE))
    found, wanted = (pv.probe({"VAE": target, "z": x}, x, y) for x in (frame, DENSE))
    for name, of in wanted.scores.items():
        assert torch.equal(found.scores[name]["linear"].value, of["linear"].value)


def test_the_cells_of_an_anndata_object_are_its_matrix():
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(sparse.csr_matrix(COUNTS.astype("float32")))
    assert torch.equal(elbo(cells), elbo(DENSE))
    assert torch.equal(elbo(cells[:20]), elbo(DENSE[:20]))
    (rows,) = Batches(cells, 10).rows
    assert sparse.issparse(rows.matrix)
    with pytest.raises(ValueError, match=r"has no X: give one of its matrices"):
        elbo(anndata.AnnData(shape=(5, 6)))


def test_a_sparse_matrix_is_never_dense_as_a_whole():
    wide = sparse.random_array((20_000, 50_000), density=1e-5, rng=0, format="csr")
    batches = Batches(wide, 4, shuffle=True)  # 4 GB, were it dense
    assert next(iter(batches))[0].shape == (4, 50_000)
    assert batches.tensors == ()


def test_arrays_may_be_context_of_arrays():
    target = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Poisson(pv.nets.MLP(2, 8, WIDTH), library=True),
        pv.guides.MeanFieldNormal(pv.nets.LogCounts(pv.nets.MLP(WIDTH + 1, 8, 4), library=True)),
    )
    size = COUNTS.sum(1).clip(1)
    wanted = elbo((DENSE, torch.from_numpy(size).float()), target)
    for library in (size, pandas.Series(size), polars.Series(size.astype("float64"))):
        assert torch.equal(elbo((sparse.csr_array(COUNTS), library), target), wanted)


def test_missing_values_of_frames_are_named():
    frame = polars.DataFrame({"a": [1, None, 3], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 3 data"):
        pv.evaluate(vae(pv.likelihoods.Normal, width=2), frame, particles=2)


def test_gaps_of_a_frame_are_imputed():
    frame = polars.DataFrame({"a": [1, None, 3], "b": [1.0, 2.0, 3.0]})
    target = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Masked(pv.likelihoods.Normal(pv.nets.MLP(2, 8, 2))),
        pv.guides.MeanFieldNormal(pv.nets.HideMissing(pv.nets.MLP(2, 8, 4))),
    )
    mask = np.array([[True, True], [False, True], [True, True]])
    found = pv.impute(target, frame, mask, particles=10).x
    assert found[mask].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert found.isfinite().all()


def test_everything_that_takes_x_takes_an_array():
    target = vae(pv.likelihoods.ContinuousBernoulli)
    x = torch.from_numpy(LEVELS).float() / 255
    check = pv.PredictiveCheck({"mean": torch.mean}, draws=39, limit=10)

    def measured(data):
        with pv.seeded(3):
            return [
                target.encode(data).mean,
                target.reconstruct(data),
                pv.active_units(target, data).count,
                pv.traverse(target, data).means,
                pv.latent_plane(target, data).aggregate,
                pv.analytic_kl(target, data),
                pv.refine(target, data, steps=1).parameters,
                novelty.likelihood_regret(target, data, steps=1, particles=3),
                pv.Latents(draws=20)(target, data).numbers,
                pv.AIS(temperatures=2, limit=4, particles=2)(target, data).quantities,
                check(target, data).quantities,
                pv.Novelty(novel=data[:5])(target, data).quantities,
            ]

    for found, wanted in zip(measured(LEVELS), measured(x), strict=True):
        if isinstance(wanted, torch.Tensor):
            assert torch.equal(found, wanted)
        else:
            assert str(found) == str(wanted)


# Labels.


class Pictures(Dataset):
    """Items (image, label), the label an int, as torchvision's folders of images give them."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return DENSE[row], int(row) % 3


def test_labels_are_dropped_as_told():
    dropped = Labeled(Pictures(), labels="drop")
    batches = list(Batches(dropped, 20))
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert torch.equal(torch.cat([x for (x,) in batches]), DENSE)
    assert len(trained(dropped, validation=dropped)) == 2


def test_labels_are_context_as_told():
    (x, label), *_ = Batches(Labeled(Pictures(), labels="context"), 5)
    assert (x.shape, label.tolist()) == ((5, WIDTH), [0, 1, 2, 0, 1])


def test_labels_without_a_word_name_the_choices():
    with pytest.raises(ValueError, match=r"Labeled\(data, labels='drop'\).*labels='context'"):
        trained(Pictures())
    with pytest.raises(ValueError, match=r"Labeled\(data, labels='drop'\) of a data set"):
        elbo(Pictures())
    with pytest.raises(ValueError, match="labels must be 'drop' or 'context'; got 'keep'"):
        Labeled(Pictures(), labels="keep")
    with pytest.raises(ValueError, match=r"items \(x, label\); got Tensor"):
        Labeled(DENSE, labels="drop")[0]


def test_a_loader_with_workers_is_a_stream():
    loader = DataLoader(
        Labeled(Pictures(), labels="drop"), 16, num_workers=1, persistent_workers=True
    )
    assert torch.equal(torch.cat([x for (x,) in Batches(loader, 1)]), DENSE)
    assert len(trained(loader)) == 2
    assert len(elbo(loader)) == ROWS
