"""Quantizers: gradients, moving averages and revival by hand, lattices, residual levels."""

import itertools

import pytest
import torch

import pyrovae as pv
from pyrovae.data.ranks import Ranks
from pyrovae.nets import Codebook, Lattice


def nearest_by_hand(h, table):
    """Return the codes [...] of vectors [..., D], by all distances in turn."""
    distances = [(h - code).square().sum(-1) for code in table]
    return torch.stack(distances, -1).argmin(-1)


def book_at(vectors, **options):
    """Return a codebook at given vectors, whose moving averages have settled on them."""
    table = torch.as_tensor(vectors, dtype=torch.float64)[None]
    book = Codebook(*table.shape[1:], **options).double()
    with torch.no_grad():
        book.table.copy_(table)
        book.counts.fill_(1.0)
        book.sums.copy_(table)
    return book


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_the_gradients_are_the_papers(update):
    """dL/dh = dL/dz + 2 beta (h - e), and dL/de = 2 (e - h) of the codebook loss."""
    book = book_at([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]], update=update, commitment=0.3)
    h = torch.tensor([[0.2, -0.4], [1.5, 1.1], [2.5, 0.5]], dtype=torch.float64)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 4.0]], dtype=torch.float64)
    h.requires_grad_()
    found = book.quantize(h)
    ((found.vectors.sum(-2) * weights).sum() + found.penalty.sum()).backward()
    codes = torch.tensor([0, 1, 1])
    assert torch.equal(found.codes[..., 0], codes)
    apart = h.detach() - book.table.detach()[0, codes]
    torch.testing.assert_close(h.grad, weights + 2 * 0.3 * apart)
    if update == "loss":
        wanted = torch.zeros(1, 3, 2, dtype=torch.float64)
        wanted[0].index_add_(0, codes, -2 * apart)
        torch.testing.assert_close(book.table.grad, wanted)
    assert torch.equal(found.vectors[:, 0], book.table[0, codes])  # bit for bit, not h + (e - h)


def test_moving_averages_are_those_of_a_loop():
    """Two steps: averages that are gathered in one change the vectors at the start of the next."""
    start = [[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]]
    book = book_at(start, decay=0.9, revive=0.0)
    table = torch.tensor(start, dtype=torch.float64)
    counts, sums = torch.ones(3, dtype=torch.float64), table.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        table = sums / counts[:, None]
        h = 2 * torch.randn(7, 2, generator=generator, dtype=torch.float64)
        codes = nearest_by_hand(h, table)
        assert torch.equal(book.quantize(h.requires_grad_()).codes[:, 0], codes)
        torch.testing.assert_close(book.table[0], table)
        for k in range(3):
            mine = h.detach()[codes == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
            sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0)
    torch.testing.assert_close(book.counts[0], counts)
    torch.testing.assert_close(book.sums[0], sums)


def test_with_a_decay_near_zero_a_step_is_one_of_k_means():
    book = book_at([[0.0], [10.0]], decay=1e-12, revive=0.0)
    h = torch.tensor([[-1.0], [2.0], [8.0], [9.0], [16.0]], dtype=torch.float64)
    book.quantize(h.requires_grad_())
    book.quantize(h)
    torch.testing.assert_close(book.table[0, :, 0], torch.tensor([0.5, 11.0]).double())


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_a_dead_code_is_put_on_a_row_that_is_far_from_its_code(update):
    book = book_at([[0.0, 0.0], [50.0, 50.0], [1.0, 0.0]], update=update, decay=0.5, revive=0.2)
    far = torch.tensor([4.0, -3.0], dtype=torch.float64)
    h = torch.zeros(60, 2, dtype=torch.float64)
    h[::2, 0], h[7] = 1.0, far  # the other rows are codes: their distances are 0
    for _ in range(8):
        book.quantize(h.clone().requires_grad_())
    assert torch.equal(book.table[0, 1].detach(), far)
    assert set(book.quantize(h).codes.unique().tolist()) == {0, 1, 2}


def test_all_codes_are_used_after_a_few_steps_from_a_poor_start():
    torch.manual_seed(0)
    book = Codebook(64, 4)  # at unit normals, while the data lie within a hundredth
    h = 0.01 * torch.randn(2000, 4) + 3.0
    with torch.no_grad():
        assert len(book.quantize(h).codes.unique()) == 1
    for _ in range(5):
        book.quantize(h.clone().requires_grad_())
    assert len(book.quantize(h).codes.unique()) > 60


def test_the_nearest_code_of_each_vector_is_its_own_far_from_the_origin():
    """Twins that differ by one rounding: |e|^2 - 2 h e would cancel."""
    torch.manual_seed(0)
    book = Codebook(256, 4)
    with torch.no_grad():
        book.table.add_(30.0)
        book.table[0, 128:] = book.table[0, :128].nextafter(torch.tensor(99.0))
    codes = torch.arange(256)[:, None]
    assert torch.equal(book.nearest(book.lookup(codes)), codes)
    h = 30.0 + torch.randn(500, 4)
    by_hand = nearest_by_hand(h.double(), book.table[0].double())
    own = (book.quantize(h).vectors[:, 0] - h).double().norm(dim=-1)
    best = (book.table[0][by_hand] - h).double().norm(dim=-1)
    torch.testing.assert_close(own, best, rtol=1e-5, atol=0)


def test_dead_codes_are_put_on_rows_of_their_own():
    torch.manual_seed(0)
    book = Codebook(64, 2)
    with torch.no_grad():
        book.table[0, 1:] += 100.0
    book.quantize(torch.randn(64, 2, requires_grad=True))
    assert len(book.table[0].unique(dim=0)) == 64


def test_it_moves_only_in_training_with_a_gradient():
    book = Codebook(4, 2)
    h = torch.randn(20, 2)
    before = {name: tensor.clone() for name, tensor in book.state_dict().items()}
    book.quantize(h)  # in training mode, without a gradient: measured, or a frozen encoder
    book.eval().quantize(h.clone().requires_grad_())
    for name, tensor in book.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    book.train().quantize(h.requires_grad_())
    assert not torch.equal(book.counts, before["counts"])


def test_residual_levels_come_nearer_and_share_the_gradient():
    torch.manual_seed(0)
    h = torch.randn(400, 3)
    distances = []
    for depth in (1, 2, 3):
        book = Codebook(8, 3, depth=depth, decay=0.8)
        for _ in range(30):
            book.quantize(h.clone().requires_grad_())
        leaf = h.clone().requires_grad_()
        vectors = book.eval().quantize(leaf).vectors
        distances.append((vectors.sum(-2) - h).square().sum(-1).mean().item())
        vectors.sum(-2).sum().backward()
        assert torch.equal(leaf.grad, torch.ones_like(leaf))
    # Eight codes leave about 8^(-2/3), a quarter, of the variance in three dimensions.
    assert distances[1] < 0.5 * distances[0]
    assert distances[2] < 0.5 * distances[1]


def test_each_level_quantizes_what_is_left():
    torch.manual_seed(0)
    book = Codebook(5, 2, depth=3).double()
    h = torch.randn(50, 2, dtype=torch.float64)
    found, left = book.quantize(h), h
    for level in range(3):
        codes = nearest_by_hand(left, book.table[level])
        assert torch.equal(found.codes[:, level], codes)
        left = left - book.table[level, codes]
    assert torch.equal(book.nearest(found.vectors), found.codes)
    assert torch.equal(book.lookup(found.codes), found.vectors)


@pytest.mark.parametrize("levels", [[2], [3], [8, 6, 5], [2, 2, 2], [4, 3]])
def test_codes_of_a_lattice_are_its_points_one_to_one(levels):
    lattice = Lattice(levels)
    codes = torch.arange(lattice.codes)[:, None]
    points = lattice.lookup(codes)
    assert torch.equal(lattice.nearest(points), codes)
    axes = [[(i - L // 2) / (L // 2) for i in range(L)] for L in levels]
    wanted = {tuple(round(v, 5) for v in point) for point in itertools.product(*axes)}
    assert {tuple(round(v, 5) for v in p) for p in points[:, 0].tolist()} == wanted


def test_every_point_of_a_lattice_is_reached_and_none_beyond():
    lattice = Lattice([8, 5, 2])
    h = torch.cartesian_prod(*[torch.linspace(-9.0, 9.0, 300)] * 3)[::97]
    assert len(Lattice([8]).quantize(torch.linspace(-9, 9, 500)[:, None]).codes.unique()) == 8
    found = lattice.quantize(h)
    assert torch.equal(lattice.lookup(found.codes), found.vectors)
    assert not lattice.quantize(torch.zeros(1, 3)).vectors.any()


def test_the_gradient_of_a_lattice_is_that_of_its_tanh():
    """As in the paper's code, with the shift that puts h = 0 at level 0."""
    h = torch.tensor([[0.3, -1.2]], dtype=torch.float64, requires_grad=True)
    Lattice([4, 5]).double().quantize(h).vectors.sum().backward()
    wanted = []
    for value, levels in zip(h.detach()[0], (4, 5), strict=True):
        half = (levels - 1) * (1 + 1e-3) / 2
        shift = torch.atanh(torch.tensor((0.5 if levels == 4 else 0.0) / half).double())
        wanted.append(half * (1 - torch.tanh(value + shift) ** 2) / 2)  # L // 2 is 2 for both
    torch.testing.assert_close(h.grad[0], torch.stack(wanted))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Codebook(1, 4), "at least two codes.*codes=1"),
        (lambda: Codebook(8, 0), "width.*width=0"),
        (lambda: Codebook(8, 4, depth=0), "depth=0"),
        (lambda: Codebook(8, 4, update="adam"), "'ema' or 'loss'; got 'adam'"),
        (lambda: Codebook(8, 4, decay=1.0), "decay=1.0"),
        (lambda: Codebook(8, 4, revive=1.0), "revive=1.0"),
        (lambda: Codebook(8, 4, commitment=-1.0), "commitment=-1.0"),
        (lambda: Lattice([]), r"at least one coordinate.*got \[\]"),
        (lambda: Lattice([8, 1]), r"two levels or more.*got \[8, 1\]"),
        (lambda: Lattice([8.0, 5]), r"whole numbers, of type int; got \[8.0, 5\]: write 8"),
    ],
)
def test_bad_sizes_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_codebooks_of_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(Ranks, "present", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match="train in one process, or use guides.FSQ"):
        Codebook(4, 2).quantize(torch.zeros(3, 2, requires_grad=True))


class Refuse(pv.Callback):
    def started(self, training):
        raise OSError("no room")


def test_the_check_before_a_training_leaves_the_codebook():
    torch.manual_seed(0)
    book = Codebook(64, 2, update="loss")
    guide = pv.guides.VectorQuantized(pv.nets.MLP(4, 6), book)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(6, 4))
    vae = pv.VAE(pv.priors.Codes(book, 3), likelihood, guide)
    before = book.table.detach().clone()
    with pytest.raises(OSError, match="no room"):
        pv.fit(vae, torch.eye(4).repeat(5, 1), callbacks=[Refuse()])
    assert torch.equal(book.table, before)
