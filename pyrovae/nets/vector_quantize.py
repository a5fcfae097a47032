"""The codebooks of vector-quantize-pytorch as quantizers."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.nets.codebooks import Quantized, Quantizer, check_sizes

__all__ = ["TorchCodebook"]


class TorchCodebook(Quantizer):
    """Quantize by `VectorQuantize` of the package vector-quantize-pytorch.

    It brings k-means initialization, cosine similarity, a codebook of fewer dimensions, the
    rotation trick, and more. Its loss, a mean over entries, is multiplied to a sum over the
    entries of each datum, as the ELBO is one. As in `Codebook`, the moving averages of a step
    change the vectors at the start of the next. It changes Python attributes as it runs, so that
    steps are not compiled.

    Args:
        codes: K.
        width: D.
        **options: further arguments of `VectorQuantize`, such as `codebook_dim`,
            `use_cosine_sim`, `kmeans_init` or `threshold_ema_dead_code`.

    Raises:
        ValueError: if the package is not installed, there are fewer than two codes, or there are
            several heads.

    Example:
        >>> import torch, pyrovae as pv
        >>> book = pv.nets.TorchCodebook(256, 16, use_cosine_sim=True)
        >>> guide = pv.guides.VectorQuantized(pv.nets.MLP(64, 16, 5 * 16), book)
        >>> guide.codes(torch.zeros(3, 64)).shape
        torch.Size([3, 5, 1])
    """

    def __init__(self, codes: int, width: int, **options: Any) -> None:
        super().__init__()
        check_sizes(self, codes, width, 1)
        if options.get("heads", 1) != 1:
            raise ValueError(f"TorchCodebook takes one head; got heads={options['heads']}")
        self.codes, self.width, self.depth = codes, width, 1
        self.vq = _library().VectorQuantize(dim=width, codebook_size=codes, **options)
        # Plain tensors, which runs and checkpoints keep: the next step moves the codebook by them.
        self.rows, self.found = torch.zeros(1, 0, width), torch.zeros(1, 0, dtype=torch.long)

    def quantize(self, h: Tensor) -> Quantized:
        """Return the codes of vectors h [..., D], and in training move the codebook."""
        moves = self.training and h.requires_grad
        rows = h.reshape(1, -1, self.width)
        if moves and self.rows.numel():
            self.vq.update_indices(self.rows, self.found)
        with _mode(self.vq, training=moves, zero=0.0 * rows.sum()):
            found, codes, loss = self.vq(rows, freeze_codebook=self.vq.ema_update)
        if moves and self.vq.ema_update:
            self.rows, self.found = rows.detach(), codes
        penalty = (loss * self.width).expand(h.shape[:-1])
        path = (found - found.detach()).reshape(h.shape)
        codes = codes.reshape(*h.shape[:-1], 1)
        return Quantized(self.lookup(codes) + path.unsqueeze(-2), codes, penalty)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the codes [..., 1] nearest to the vectors [..., 1, D]."""
        table = self._table()
        return (table.square().sum(-1) - 2 * vectors.detach() @ table.T).argmin(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., 1, D] of codes [..., 1]."""
        return self._table()[codes]

    @torch.no_grad()
    def _table(self) -> Tensor:
        """Return the vectors of all codes, [K, D]."""
        codebook = self.vq.codebook
        table: Tensor = self.vq.get_output_from_indices(
            torch.arange(self.codes, device=codebook.device)
        )
        return table


@contextlib.contextmanager
def _mode(module: nn.Module, *, training: bool, zero: Tensor) -> Iterator[None]:
    """Set the mode, and the zero that the package adds to its losses.

    The package marks its own zero as a parameter, which no part holds; `zero` depends on the data.
    """
    before, own = module.training, module.zero
    module.train(training)
    module.zero = zero
    try:
        yield
    finally:
        module.train(before)
        module.zero = own


def _library() -> Any:
    """Return the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("vector_quantize_pytorch")
    except ModuleNotFoundError as error:
        raise ValueError(
            "TorchCodebook needs the package vector-quantize-pytorch, which is not installed: "
            "pip install 'pyrovae[codes]'"
        ) from error
