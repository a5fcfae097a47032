"""Data that are read piece by piece are the same data, at constant memory."""

import functools
import threading
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse

import pyrovae as pv
from pyrovae.data import Batches, Intake, Streamed, Transformed
from pyrovae.data.streams import Parquet, ahead

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS, WIDTH = 53, 3
X = torch.arange(ROWS * WIDTH).reshape(ROWS, WIDTH).float()


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / "x.npy", X.double().numpy())
    return tmp_path / "x.npy"


@pytest.fixture
def table(tmp_path):
    columns = {f"c{j}": column.numpy() for j, column in enumerate(X.T)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=7)
    return tmp_path / "x.parquet"


def walked(data, seed=0, **settings):
    torch.manual_seed(seed)
    return [x for (x,) in Batches(data, 8, **settings)]


def vae(likelihood=pv.likelihoods.Normal):
    torch.manual_seed(0)
    return pv.mlp_vae(WIDTH, latents=2, hidden=4, likelihood=likelihood)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("make", [str, Path, lambda path: np.load(path, mmap_mode="r")])
def test_a_memory_mapped_array_has_the_batches_of_a_tensor(npy, shuffle, make):
    wanted = walked(X, shuffle=shuffle)
    for data in (
        make(npy),
        Streamed(make(npy)),
        Streamed(X),
        Streamed(sparse.csr_array(X.numpy())),
    ):
        found = walked(data, shuffle=shuffle)
        assert all(map(torch.equal, found, wanted))
        assert len(found) == len(wanted) == 7


def test_what_is_on_disk_is_read_whole_up_to_a_size(npy, table):
    for path in (npy, table):
        assert len(Batches(path, 8).tensors) == 1
        assert Batches(Streamed(path), 8).tensors == ()
        size = X.nbytes
        assert Batches(path, 8, intake=Intake(in_memory=size)).tensors
        assert Batches(path, 8, intake=Intake(in_memory=size - 1)).tensors == ()


def test_a_memory_mapped_array_may_have_a_context(npy):
    labels = np.arange(ROWS)
    for x, label in Batches(Streamed((str(npy), labels)), 8, shuffle=True):
        assert torch.equal(x[:, 0], 3.0 * label)


def test_mapped_images_are_moved_and_scaled_batch_by_batch(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 8, 3), dtype="uint8")
    np.save(tmp_path / "x.npy", images)
    intake = Intake(domain=torch.distributions.constraints.unit_interval)
    batches = Batches(Streamed(tmp_path / "x.npy"), 6, intake=intake)
    assert batches.rows[0].shape == (20, 3, 9, 8)
    found = torch.cat([x for (x,) in batches])
    wanted = torch.from_numpy(images).movedim(-1, 1) / 255
    torch.testing.assert_close(found, wanted)


class TestParquet:
    def test_in_order_it_is_the_file(self, table):
        for data in (table, str(table), Streamed(table)):
            assert torch.equal(torch.cat(walked(data)), X)

    @pytest.mark.parametrize("window", [1, 20, 10**6])
    def test_shuffled_it_has_each_row_once_in_an_order_of_the_seed(
        self, table, window, monkeypatch
    ):
        monkeypatch.setattr("pyrovae.data.streams.WINDOW", window)
        one, again, other = (walked(Streamed(table), seed, shuffle=True) for seed in (0, 0, 1))
        assert [len(x) for x in one] == [8] * 6 + [5]
        assert torch.equal(torch.cat(one), torch.cat(again))
        assert not torch.equal(torch.cat(one), torch.cat(other))
        assert torch.equal(torch.cat(one).sort(0).values, X)

    def test_it_knows_its_length_before_it_is_read(self, table):
        batches = Batches(Streamed(table), 8, shuffle=True)
        assert len(batches) == 7
        assert isinstance(batches.source, Parquet)
        assert len(batches.in_order(20)) == 3

    def test_few_row_groups_are_read_at_once(self, table, monkeypatch):
        monkeypatch.setattr("pyrovae.data.streams.WINDOW", 10)
        read = []
        stream = Parquet(table, 8, shuffle=False, intake=Intake())
        whole = stream._tensor
        monkeypatch.setattr(stream, "_tensor", lambda groups: read.append(groups) or whole(groups))
        batches = iter(stream)
        next(batches)
        batches.close()
        assert read in ([[0, 1]], [[0, 1], [2, 3]])  # the second may be on its way

    @pytest.mark.parametrize("name", [None, "cell"])
    def test_the_index_of_pandas_is_no_column(self, name, tmp_path):
        frame = pandas.DataFrame({"a": [0.5, -1.0, 2.0], "b": [1.0, 2.0, 4.5]})
        frame = frame.set_axis(pandas.Index([7, 9, 8], name=name))[[True, False, True]]
        frame.to_parquet(tmp_path / "x.parquet")
        assert parquet.ParquetFile(tmp_path / "x.parquet").metadata.num_columns == 3
        for data in (tmp_path / "x.parquet", Streamed(tmp_path / "x.parquet")):
            ((rows,),) = Batches(data, 2)
            assert rows.tolist() == [[0.5, 1.0], [2.0, 4.5]]
        stream = Parquet(tmp_path / "x.parquet", 2, shuffle=False, intake=Intake())
        assert stream.nbytes == 2 * 2 * torch.get_default_dtype().itemsize

    def test_a_column_of_words_is_named(self, tmp_path):
        parquet.write_table(pyarrow.table({"a": [1.0], "b": ["x"]}), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match="the column 'b' is not numeric but String"):
            Batches(tmp_path / "x.parquet", 2)

    def test_it_trains_and_is_measured(self, table):
        scaled = Transformed(Streamed(table), lambda x: x / 100, measured=True)
        assert len(pv.fit(vae(), scaled, epochs=2, batch_size=8, callbacks=[]).epochs) == 2
        found = pv.evaluate(vae(), Streamed(table), particles=2, batch_size=ROWS).elbo.value
        wanted = pv.evaluate(vae(), X, particles=2, batch_size=ROWS).elbo.value
        assert torch.equal(found, wanted)


def test_other_paths_are_refused():
    with pytest.raises(ValueError, match="got str. Give x by itself"):
        Batches("x.csv", 2)
    with pytest.raises(FileNotFoundError):
        Batches("missing.npy", 2)


# Functions of batches.


def batches_of(x):
    yield from x.split(10)


def test_a_function_of_batches_is_called_in_every_epoch():
    calls = []

    def rows():
        calls.append(1)
        yield from X.numpy().reshape(-1, 1, WIDTH)

    assert torch.equal(torch.cat(walked(rows)), X)
    assert torch.equal(torch.cat(walked(functools.partial(batches_of, X))), X)
    calls.clear()
    pv.fit(vae(), rows, epochs=2, callbacks=[])
    assert len(calls) >= 2


def test_a_generator_of_rows_trains_at_constant_memory():
    """The rows take 60 MB together; what is resident grows by less than 8 MB."""
    statm, grown = Path("/proc/self/statm"), []
    if not statm.exists():
        pytest.skip("no /proc")

    def rows():
        for _ in range(150):
            yield torch.randn(2000, 50)

    class Watch(pv.Callback):
        def stepped(self, training):
            if training.step in (20, 150):
                grown.append(int(statm.read_text().split()[1]) * 4096)

    torch.manual_seed(0)
    target = pv.mlp_vae(50, latents=2, hidden=4, likelihood=pv.likelihoods.Normal)
    pv.fit(target, rows, epochs=1, callbacks=[Watch()])
    assert grown[1] - grown[0] < 8e6


# Reading ahead.


def test_what_is_read_ahead_keeps_its_order_and_its_errors():
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter(()))) == []

    def failing():
        yield 1
        raise OSError("the disk is gone")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_a_thread_that_reads_ahead_ends_with_its_iteration(npy):
    def readers():
        return [t for t in threading.enumerate() if t.name.startswith("pyrovae-reader")]

    batches = iter(Batches(Streamed(npy), 8))
    next(batches)
    assert len(readers()) == 1
    batches.close()
    assert readers() == []


# Transforms.


def flipped(x):
    flipped.calls += 1
    return x.flip(1)


def test_a_transform_applies_in_training_alone():
    flipped.calls = 0
    data = Transformed(X, flipped)
    assert torch.equal(torch.cat(walked(data)), X)
    assert flipped.calls == 0
    found = torch.cat(walked(data, shuffle=True))
    assert torch.equal(found, torch.cat(walked(X, shuffle=True)).flip(1))
    assert torch.equal(torch.cat([x for (x,) in Batches(data, 8, shuffle=True).in_order(8)]), X)
    asked = Transformed(X, flipped, measured=True)
    assert torch.equal(torch.cat(walked(asked)), X.flip(1))


def test_fit_transforms_each_batch_and_no_measurement():
    flipped.calls = 0
    data = Transformed(X, flipped)
    pv.fit(vae(), data, validation=data, epochs=2, batch_size=8, callbacks=[])
    assert flipped.calls == 2 * 7
    found = pv.evaluate(vae(), data, particles=2).elbo.value
    assert torch.equal(found, pv.evaluate(vae(), X, particles=2).elbo.value)


def test_noise_in_a_transform_follows_the_seed():
    def noisy(x):
        return x + torch.randn_like(x)

    def trained(seed):
        target = vae()
        pv.fit(target, Transformed(X / 100, noisy), epochs=1, seed=seed, callbacks=[])
        return target.state_dict()["likelihood.net.layers.0.weight"]

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_what_a_transform_returns_is_checked():
    data = Transformed((X > 50).float(), lambda x: x + 0.25)
    with pytest.raises(ValueError, match="Bernoulli takes values that are 0 or 1; got 1?.?25"):
        pv.fit(vae(pv.likelihoods.Bernoulli), data, epochs=1, callbacks=[])


def test_a_dynamic_split_is_binarized_before_its_transform():
    split = pv.data.Split(torch.rand(ROWS, WIDTH), torch.zeros(ROWS), dynamic=True)
    data = Transformed(split, lambda x: x.flip(1))
    for x in walked(data, shuffle=True):
        assert set(x.unique().tolist()) <= {0.0, 1.0}
    target = vae(pv.likelihoods.Bernoulli)
    found = pv.evaluate(target, data, particles=2).elbo.value
    assert torch.equal(found, pv.evaluate(target, split, particles=2).elbo.value)
