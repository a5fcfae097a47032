"""The codebooks of vector-quantize-pytorch: the same numbers as ours, and an honest bound."""

import pytest
import torch

import pyrovae as pv
from pyrovae.nets import Codebook, TorchCodebook

X = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])


@pytest.fixture
def _installed():
    pytest.importorskip("vector_quantize_pytorch")


def vae_with(book):
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(4, 5, 4))
    guide = pv.guides.VectorQuantized(pv.nets.MLP(4, 5, 4), book)
    return pv.VAE(pv.priors.Codes(book, 2), likelihood, guide)


@pytest.mark.usefixtures("_installed")
def test_its_codes_and_gradients_are_ours():
    """Its loss is a mean over entries: the penalty is the sum, as ours is."""
    theirs = TorchCodebook(6, 2, commitment_weight=0.3, rotation_trick=False)
    ours = Codebook(6, 2, commitment=0.3)
    with torch.no_grad():
        theirs.vq.codebook.copy_(ours.table[0])
    weights, found = torch.randn(5, 3, 2), []
    h = torch.randn(5, 3, 2)
    for book in (ours, theirs):
        leaf = h.clone().requires_grad_()
        quantized = book.quantize(leaf)
        ((quantized.vectors[..., 0, :] * weights).sum() + quantized.penalty.sum()).backward()
        assert quantized.penalty.shape == (5, 3)
        found.append((quantized.codes, quantized.vectors, leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1:], found[1][1:])


OPTIONS = {
    "plain": {},
    "cosine": {"use_cosine_sim": True},
    "projected": {"codebook_dim": 1},
    "k-means and revival": {"kmeans_init": True, "threshold_ema_dead_code": 2},
    "learned": {"learnable_codebook": True, "ema_update": False},
}


@pytest.mark.usefixtures("_installed")
def test_fit_trains_it_and_resumes_it(tmp_path):
    step = pv.Step(pv.Optim(torch.optim.Adam, lr=0.05), compile=False)
    trained = {}
    for name, epochs in {"whole": [40], "resumed": [20, 40]}.items():
        torch.manual_seed(2)
        vae = vae_with(TorchCodebook(3, 2))
        before = pv.log_weights(vae.eval(), X, particles=1).mean()
        for i, last in enumerate(epochs):
            pv.fit(
                *(vae.train(), X.repeat(8, 1)),
                epochs=last,
                batch_size=12,
                step=step,
                callbacks=[pv.Checkpoint(tmp_path / name)],
                resume=tmp_path / name if i else None,
            )
        trained[name] = pv.log_weights(vae.eval(), X, particles=1)
        assert trained[name].mean() > before + 1.0
    assert torch.equal(trained["resumed"], trained["whole"])
