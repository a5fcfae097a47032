"""An iteration that begins at a later batch has the order of one from the start."""

from __future__ import annotations

import pytest
import torch
from scipy.sparse import csr_array
from torch.utils.data import Dataset

from pyrovae.data import Batches, Split, Streamed, Transformed


class Rows(Dataset):
    def __len__(self):
        return 17

    def __getitem__(self, row):
        return torch.tensor([float(row)])


FORMS = {
    "tensor": torch.arange(17.0)[:, None],
    "with context": (torch.arange(17.0)[:, None], torch.arange(17)),
    "dataset": Rows(),
    "stream": list(torch.arange(17.0)[:, None].split(3)),
    "sparse": csr_array(torch.arange(17.0)[:, None].numpy()),
    "told to stream": Streamed(torch.arange(17.0)[:, None]),
    "transformed": Transformed(torch.arange(17.0)[:, None], torch.neg),
    "function": lambda: iter(torch.arange(17.0)[:, None].split(3)),
}


@pytest.fixture
def forms(tmp_path):
    """The forms, with a parquet file of three row groups."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"a": torch.arange(17.0).numpy()})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    return FORMS | {"parquet": Streamed(tmp_path / "x.parquet")}


@pytest.mark.parametrize("name", [*FORMS, "parquet"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_batches_after_a_skip_are_the_last_of_a_whole_iteration(forms, name, shuffle):
    batches = Batches(forms[name], 3, shuffle=shuffle)
    state = torch.get_rng_state()
    whole = list(batches)
    for skip in range(len(whole) + 1):
        torch.set_rng_state(state)
        rest = list(batches.iterate(skip=skip))
        assert len(rest) == len(whole) - skip
        for batch, other in zip(rest, whole[skip:], strict=True):
            assert all(map(torch.equal, batch, other))
    assert len(batches) == len(whole)


def test_a_binarization_resumes_with_the_generator_of_its_batch():
    batches = Batches(Split(torch.rand(17, 8), torch.zeros(17), dynamic=True), 3, shuffle=True)
    start, states, whole = torch.get_rng_state(), [], []
    for batch in batches:
        whole.append(batch)
        torch.rand(2)  # what a step draws
        states.append(torch.get_rng_state())
    torch.set_rng_state(start)
    rest = batches.iterate(skip=2)
    torch.set_rng_state(states[1])  # the permutation is drawn by now, batch 2 is not
    torch.testing.assert_close(next(rest)[0], whole[2][0], rtol=0, atol=0)


@pytest.mark.parametrize("name", FORMS)
def test_skipping_more_batches_than_there_are_is_refused(name):
    with pytest.raises(ValueError, match=r"the data have 6 batches; got skip=7"):
        Batches(FORMS[name], 3).iterate(skip=7)
