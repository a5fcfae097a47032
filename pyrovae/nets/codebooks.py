r"""Quantizers: map a vector to the nearest of K codes, with a gradient.

A quantizer splits a vector $h \in R^D$ into R levels: the first level takes the nearest code, each
further one the code nearest to what the levels before leave over. The gradient of the sum of the
R code vectors is passed on to h as it is (straight-through). What pulls h and its codes together
is the gradient of a penalty, which has no part in any measured number.

The codes of a batch, their vectors, and the nearest codes of these vectors agree within a step:
moving averages are gathered in one step and change the vectors at the start of the next.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyrovae.data.ranks import Ranks
from pyrovae.parts import Part

__all__ = ["Codebook", "Lattice", "Quantized", "Quantizer"]

STRETCH: Final = 1e-3
"""The share by which a lattice's range exceeds its outermost levels, as in the paper's code."""


class Quantized(NamedTuple):
    """Vectors that were replaced by codes.

    Attributes:
        vectors: the vector of each level's code, [..., R, D]. Their sum has the gradient of h.
        codes: the index of each level's code, [..., R].
        penalty: what pulls h and its codes together, [...]. Only its gradient is used.
    """

    vectors: Tensor
    codes: Tensor
    penalty: Tensor


class Quantizer(Part):
    """Quantize vectors of width D by R levels of K codes each.

    Attributes:
        codes: K.
        width: D.
        depth: R.
    """

    codes: int
    width: int
    depth: int

    @abc.abstractmethod
    def quantize(self, h: Tensor) -> Quantized:
        """Return the codes of vectors h [..., D]."""

    @abc.abstractmethod
    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the codes [..., R] nearest to the vectors [..., R, D] of each level."""

    @abc.abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., R, D] of codes [..., R]."""

    def shares_codes(self, other: object) -> bool:
        """Return whether another quantizer has the same codes, now and after training."""
        return self is other


class Codebook(Quantizer):
    r"""Keep K learned vectors e of width D, in each of R levels, and quantize by the nearest one.

    $$ k_r = \arg\min_k \|h_r - e_{r,k}\|^2, \qquad h_1 = h, \quad h_{r+1} = h_r - e_{r, k_r} $$

    The vectors are the exponential moving averages of the h that they stand for
    (`update="ema"`), or parameters trained by the codebook loss $\|sg[h_r] - e_{r,k}\|^2$
    (`update="loss"`). Both pull h to its code by the commitment $\beta \|h_r - sg[e_{r,k}]\|^2$.

    A code whose smoothed count falls to the share `revive` of the mean count is dead, and is put
    on a row of the batch, drawn in proportion to its squared distance from its code, as k-means++
    does. The codebook moves while it is in training mode and h requires a gradient. Freeze it
    with the encoder: `guide.requires_grad_(False)`.

    Args:
        codes: K.
        width: D.
        depth: R, the number of residual levels.
        update: "ema" or "loss".
        decay: of the moving averages, between 0 and 1.
        commitment: beta, 0 or more.
        revive: the share of the mean count at which a code is dead, from 0 to below 1; with 0,
            only codes that were never used are revived.

    Raises:
        ValueError: if a setting is out of range; and in training, if several processes train
            together, whose codebooks would differ.

    References:
        van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.
        Razavi, van den Oord, Vinyals, 2019. Generating Diverse High-Fidelity Images with VQ-VAE-2.
        Zeghidour et al., 2021. SoundStream (residual levels, and revival).

    Example:
        >>> import torch
        >>> from pyrovae.nets import Codebook
        >>> book = Codebook(256, 16)
        >>> found = book.quantize(torch.randn(5, 49, 16))
        >>> found.vectors.shape, found.codes.shape
        (torch.Size([5, 49, 1, 16]), torch.Size([5, 49, 1]))
    """

    table: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        depth: int = 1,
        update: Literal["ema", "loss"] = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        revive: float = 0.01,
    ) -> None:
        super().__init__()
        check_sizes(self, codes, width, depth)
        if update not in ("ema", "loss"):
            raise ValueError(f"a codebook's update is 'ema' or 'loss'; got {update!r}")
        if not (0 < decay < 1 and 0 <= revive < 1 and 0 <= commitment < math.inf):
            raise ValueError(
                "expected 0 < decay < 1, 0 <= revive < 1 and a finite commitment of 0 or more; "
                f"got decay={decay}, revive={revive}, commitment={commitment}"
            )
        self.codes, self.width, self.depth = codes, width, depth
        self.update, self.decay, self.commitment, self.revive = update, decay, commitment, revive
        table = torch.randn(depth, codes, width)
        if update == "loss":
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.register_buffer("counts", torch.zeros(depth, codes))
        self.register_buffer("sums", torch.zeros(depth, codes, width))

    def quantize(self, h: Tensor) -> Quantized:
        """Return the codes of vectors h [..., D], and in training move the codebook."""
        moves = self.training and h.requires_grad
        if moves:
            _check_alone()
            self._take_averages()
        left, rest, penalty = h.detach(), h, h.new_zeros(h.shape[:-1])
        vectors, codes = [], []
        for level in range(self.depth):
            found = self._nearest(level, left)
            vector = self.table[level][found]
            if moves:
                self._gather(level, left.reshape(-1, self.width), found.reshape(-1))
            penalty = penalty + self._penalty(rest, left, vector)
            left, rest = left - vector.detach(), rest - vector.detach()
            vectors.append(vector.detach())
            codes.append(found)
        # Added to one level, so that the gradient of the sum is h's, and its value unchanged.
        vectors[0] = vectors[0] + (h - h.detach())
        return Quantized(torch.stack(vectors, -2), torch.stack(codes, -1), penalty)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the codes [..., R] nearest to the vectors [..., R, D] of each level."""
        levels = vectors.detach().unbind(-2)
        return torch.stack([self._nearest(r, left) for r, left in enumerate(levels)], -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., R, D] of codes [..., R]."""
        table = self.table.detach()
        return torch.stack([table[r][found] for r, found in enumerate(codes.unbind(-1))], -2)

    @torch.no_grad()
    def _nearest(self, level: int, left: Tensor) -> Tensor:
        # By differences: |e|^2 - 2 h e cancels, and may take another code than the vector's own.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(left, self.table[level], compute_mode=exact).argmin(-1)

    def _penalty(self, rest: Tensor, left: Tensor, vector: Tensor) -> Tensor:
        pull = self.commitment * (rest - vector.detach()).square().sum(-1)
        if self.update == "ema":
            return pull
        return pull + (left - vector).square().sum(-1)

    @torch.no_grad()
    def _take_averages(self) -> None:
        """Set each vector to the average that the steps so far have gathered."""
        if self.update == "ema":
            counts = self.counts.unsqueeze(-1)
            self.table.copy_(torch.where(counts > 0, self.sums / counts, self.table))

    @torch.no_grad()
    def _gather(self, level: int, rows: Tensor, found: Tensor) -> None:
        """Add a batch to the moving averages, and revive the dead codes of a level."""
        used = rows.new_zeros(self.codes).index_add(0, found, rows.new_ones(len(rows)))
        sums = torch.zeros_like(self.sums[level]).index_add(0, found, rows)
        counts = self.counts[level].lerp(used, 1 - self.decay)
        sums = self.sums[level].lerp(sums, 1 - self.decay)
        mean = counts.mean()
        # Codes of this batch are left where they are: their vectors are in use.
        dead = (counts <= self.revive * mean) & (used == 0)
        distance = (rows - self.table[level][found]).square().sum(-1)
        # Rows of a diverging encoder are drawn as any other: the loss is refused for them.
        weight = distance.nan_to_num(0.0, 0.0) + 1e-12
        drawn = torch.multinomial(weight, self.codes, replacement=len(rows) < self.codes)
        chosen = rows[
            drawn[(dead.cumsum(0) - 1).clamp_min(0)]
        ]  # the first dead code, the first row
        self.counts[level] = torch.where(dead, mean, counts)
        self.sums[level] = torch.where(dead.unsqueeze(-1), mean * chosen, sums)
        self.table[level] = torch.where(dead.unsqueeze(-1), chosen, self.table[level])


class Lattice(Quantizer):
    r"""Round each of D coordinates to one of $L_d$ levels: $K = \prod_d L_d$ codes, none learned.

    $$ z_d = \mathrm{round}\Big(\frac{L_d - 1}{2} \tanh(h_d + s_d) - o_d\Big)
       \Big/ \lfloor L_d / 2 \rfloor $$

    The offset o is a half for even L and 0 for odd L, and s is such that h = 0 is level 0. The
    rounding passes its gradient on, the tanh has its own.

    Args:
        levels: the number of levels of each coordinate, such as [8, 6, 5] for 240 codes.

    Raises:
        ValueError: if there are no levels, or one is no whole number or below 2.

    References:
        Mentzer, Minnen, Agustsson, Tschannen, 2024. Finite Scalar Quantization: VQ-VAE Made
        Simple.

    Example:
        >>> import torch
        >>> from pyrovae.nets import Lattice
        >>> lattice = Lattice([3, 3])
        >>> lattice.lookup(torch.arange(9)[:, None])[:4, 0]
        tensor([[-1., -1.],
                [ 0., -1.],
                [ 1., -1.],
                [-1.,  0.]])
    """

    levels: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        sizes = torch.as_tensor(levels)
        if sizes.is_floating_point() and sizes.numel():
            raise ValueError(
                f"the levels of a lattice are whole numbers, of type int; got {levels}: write 8, "
                "not 8.0"
            )
        flat = sizes.ndim == 1 and len(sizes) > 0 and sizes.dtype != torch.bool
        if not flat or (sizes < 2).any():
            raise ValueError(
                "a lattice needs at least one coordinate, each with two levels or more, such as "
                f"[8, 6, 5]; got {levels}"
            )
        self._sizes = tuple(sizes.tolist())
        self.codes, self.width, self.depth = math.prod(self._sizes), len(sizes), 1
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("basis", sizes.cumprod(0) // sizes, persistent=False)
        self.register_buffer("scale", (sizes // 2).float(), persistent=False)

    def shares_codes(self, other: object) -> bool:
        """Return whether another lattice has the same levels."""
        return isinstance(other, Lattice) and other._sizes == self._sizes

    def quantize(self, h: Tensor) -> Quantized:
        """Return the codes of vectors h [..., D]."""
        half = (self.levels - 1) * (1 + STRETCH) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        shift = (offset / half).atanh()
        inside = (h + shift.to(h)).tanh() * half.to(h) - offset.to(h)
        steps = (inside.detach().round() + (inside - inside.detach())) / self.scale
        vectors = steps.unsqueeze(-2)
        return Quantized(vectors, self.nearest(vectors), h.new_zeros(h.shape[:-1]))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the codes [..., 1] nearest to lattice points [..., 1, D]."""
        digits = (vectors.detach() * self.scale).round().long() + self.levels // 2
        inside = digits.clamp_min(0).minimum(self.levels - 1)
        return (inside * self.basis).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the lattice points [..., 1, D] of codes [..., 1]."""
        digits = codes.unsqueeze(-1) // self.basis % self.levels
        return (digits - self.levels // 2) / self.scale


def check_sizes(owner: Quantizer, codes: int, width: int, depth: int) -> None:
    """Check the sizes of a codebook.

    Raises:
        ValueError: if there are fewer than two codes, or no width or level.
    """
    if codes < 2 or width < 1 or depth < 1:
        raise ValueError(
            f"{type(owner).__name__} needs at least two codes, a width and a depth of at least "
            f"one; got codes={codes}, width={width}, depth={depth}"
        )


def _check_alone() -> None:
    if Ranks.present().world > 1:
        raise ValueError(
            "a codebook moves with the batch that it sees, so those of several processes would "
            "differ: train in one process, or use guides.FSQ, whose codes are fixed"
        )
