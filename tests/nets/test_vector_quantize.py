"""The codebooks of vector-quantize-pytorch: the same numbers as ours, and an honest bound."""

import sys

import pyro
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
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_it_trains_moves_and_bounds_the_evidence(options, tmp_path):
    vae = vae_with(TorchCodebook(3, 2, **options))
    before = {
        name: tensor.clone() for name, tensor in vae.posterior.quantizer.state_dict().items()
    }
    optim = torch.optim.Adam(vae.parameters(), 0.05)
    svi = pv.SVI(vae.model, vae.guide, optim, pyro.infer.Trace_ELBO(), compile=False)
    for _ in range(5):
        svi.step(X.repeat(4, 1))
    moved = vae.posterior.quantizer.state_dict()
    assert not torch.equal(moved["vq._codebook.embed"], before["vq._codebook.embed"])
    vae.eval()
    codes = torch.cartesian_prod(*[torch.arange(3)] * 2)
    z = vae.posterior.quantizer.lookup(codes[..., None])[..., 0, :].transpose(1, 2).flatten(1)
    with torch.no_grad():
        evidence = (vae.decode(z[:, None]).log_prob(X)).logsumexp(0) - 2 * torch.tensor(3.0).log()
        bound = pv.log_weights(vae, X, particles=2)
        assert (bound < evidence).all()
        pv.save(vae, tmp_path)
        assert torch.equal(pv.log_weights(pv.load(tmp_path).eval(), X, particles=2), bound)


@pytest.mark.usefixtures("_installed")
def test_bad_sizes_and_several_heads_are_refused():
    with pytest.raises(ValueError, match="one head; got heads=2"):
        TorchCodebook(8, 4, heads=2)
    with pytest.raises(ValueError, match="at least two codes.*codes=1"):
        TorchCodebook(1, 4)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'pyrovae\[codes\]'"):
        TorchCodebook(8, 4)
