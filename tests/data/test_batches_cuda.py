"""Batches that stream to a GPU are those of data that lie there."""

import numpy as np
import pytest
import torch
from scipy import sparse

from pyrovae.data import Batches, Streamed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is at hand")

X = torch.arange(1000.0 * 30).reshape(1000, 30)


@pytest.mark.parametrize("kind", ["tensor", "mapped", "sparse", "batches"])
def test_streamed_batches_arrive_whole(kind, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    data = {
        "tensor": Streamed(X),
        "mapped": Streamed(tmp_path / "x.npy"),
        "sparse": sparse.csr_array(X.numpy()),
        "batches": list(X.split(64)),
    }[kind]
    found = torch.cat([x for (x,) in Batches(data, 64, device=torch.device("cuda"))])
    assert found.is_cuda
    assert torch.equal(found.cpu(), X)


def test_told_to_stream_nothing_else_is_on_the_gpu():
    batches = Batches(Streamed(X), 64, device=torch.device("cuda"))
    assert not batches.tensors[0].is_cuda
    assert Batches(X, 64, device=torch.device("cuda")).tensors[0].is_cuda
