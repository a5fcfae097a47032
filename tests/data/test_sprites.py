"""Sprites: what was asked for is found again in the pixels, by their moments."""

import math

import pytest
import torch
from torch.distributions import constraints

from pyrovae.data import FactorGrid, Reading, Sprites, load
from pyrovae.data.factor_files import rows_kept

GRID = Sprites.factors
SQUARE, ELLIPSE, HEART = range(3)
SCALES = torch.linspace(0.5, 1, 6)
ANGLES = torch.linspace(0, 2 * math.pi, 40)
PLACES = torch.linspace(0.25, 0.75, 32)


def drawn(number: int, **fixed: int) -> torch.Tensor:
    return GRID.sample(number, fixed=fixed, generator=torch.Generator().manual_seed(0))


def planes(side: int, factors: torch.Tensor) -> torch.Tensor:
    """Return the pixels [N, side, side]."""
    return Sprites(side).images(factors).reshape(-1, side, side)


def points(side: int, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pixels, and their centers' places to the right and up from the middle of mass."""
    found = planes(side, factors)
    share = found / found.sum((1, 2), keepdim=True)
    pixels = torch.arange(side) + 0.5
    x, y = (share.sum(1) * pixels).sum(1), (share.sum(2) * pixels).sum(1)
    return found, pixels - x[:, None], y[:, None] - pixels


@pytest.mark.parametrize("side", [32, 64])
def test_the_center_of_mass_is_the_position_to_half_a_pixel_and_a_bit(side):
    factors = drawn(3000)
    _, right, up = points(side, factors)
    x, y = 0.5 - right[:, 0], up[:, 0] + 0.5
    assert (x - side * PLACES[factors[:, 3]]).abs().max() < 0.6
    assert (y - side * PLACES[factors[:, 4]]).abs().max() < 0.6


def test_the_area_is_that_of_the_square_of_the_scale_for_every_shape():
    """Over 31 x 31 places the pixels' lattice is 31 times as fine: places fall on i / 31 pixels.

    The count is off by at most the band of half a diagonal of that lattice along the perimeter.
    """
    rows = torch.cartesian_prod(*(torch.arange(n) for n in (3, 6)), torch.tensor([7]))
    places = torch.cartesian_prod(torch.arange(31), torch.arange(31))
    factors = torch.cat([rows.repeat_interleave(961, 0), places.repeat(18, 1)], 1)
    areas = planes(64, factors).sum((1, 2)).reshape(3, 6, 961).mean(2)
    # At scale 1: 4 sides of 17; an ellipse of half-axes 2 b and b; two half-circles and two sides.
    half, radius = math.sqrt(17**2 / (2 * math.pi)), 17 / math.sqrt(4 + math.pi)
    round_ellipse = 2 * math.pi * half * math.sqrt(2.5)  # above the perimeter
    perimeters = torch.tensor([4 * 17, round_ellipse, (2 * math.pi + 4) * radius])
    off = (areas - 17**2 * SCALES**2).abs()
    assert (off <= math.sqrt(2) / 31 * perimeters[:, None] * SCALES).all()
    assert off.max() < 0.02 * 17**2


@pytest.mark.parametrize(("shape", "order", "start"), [(SQUARE, 4, math.pi), (ELLIPSE, 2, 0.0)])
def test_the_orientation_is_that_of_the_moments(shape, order, start):
    """E (a + bi)^4 is negative for an upright square, E (a + bi)^2 positive for a wide ellipse."""
    factors = drawn(200, shape=shape, scale=5)
    pixels, right, up = points(128, factors)
    z = torch.complex(*torch.broadcast_tensors(right[:, None, :], up[:, :, None]))
    moment = (pixels * z**order).sum((1, 2))
    wanted = torch.polar(torch.ones(200), start + order * ANGLES[factors[:, 2]])
    off = (moment / wanted).angle().abs() / order
    assert off.max() < ANGLES[1] / 2, "the angle is nearest to its own among the 40"


def test_the_tip_of_a_heart_points_down_and_turns_counterclockwise():
    factors = drawn(100, shape=HEART, scale=5)
    pixels, right, up = points(256, factors)
    z = torch.complex(*torch.broadcast_tensors(right[:, None, :], up[:, :, None])).flatten(1)
    farthest = (pixels.flatten(1) * z.abs()).argmax(1, keepdim=True)
    wanted = torch.polar(torch.ones(100), ANGLES[factors[:, 2]] - math.pi / 2)
    off = (z.gather(1, farthest)[:, 0] / wanted).angle().abs()
    assert off.max() < ANGLES[1] / 2


def test_the_shapes_are_a_square_an_ellipse_twice_as_wide_and_a_heart_with_a_cleft():
    square, ellipse, heart = planes(200, torch.tensor([[k, 5, 0, 16, 16] for k in range(3)]))
    for pixels, ratio in ((square, 1), (ellipse, 2)):
        height, width = pixels.amax(1).sum(), pixels.amax(0).sum()
        assert abs(width / height - ratio) < 0.05
    assert square.sum() == square.amax(0).sum() * square.amax(1).sum()
    top = heart[heart.amax(1).nonzero()[0].item()]
    assert top.diff().abs().sum() == 4, "two lobes: in the first row are two runs of pixels"
    tip = heart[heart.amax(1).nonzero()[-1].item()]
    assert tip.sum() <= 3


def test_sprites_stay_inside_of_the_image():
    extremes = [torch.arange(3), torch.tensor([5]), torch.arange(40), *2 * [torch.tensor([0, 31])]]
    found = planes(64, torch.cartesian_prod(*extremes))
    for edge in (found[:, 0], found[:, -1], found[..., 0], found[..., -1]):
        assert not edge.any()


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    factors = drawn(300)
    alone = torch.cat([Sprites().images(row) for row in factors.split(1)])
    assert torch.equal(Sprites().images(factors), alone)
    assert Sprites().images(factors[:0]).shape == (0, 1024)


def test_one_color_an_image_and_white_on_noise():
    factors = drawn(500)
    mask = Sprites().images(factors).reshape(500, 1, 32, 32).bool().expand(-1, 3, -1, -1)
    color = Sprites(look="color").images(factors).reshape(500, 3, 32, 32)
    assert torch.equal(color > 0, mask)
    tint = color.amax((2, 3))
    assert torch.equal(color[mask], tint[..., None, None].expand_as(color)[mask])
    assert 0.5 <= tint.min() < 0.51
    assert 0.99 < tint.max() <= 1
    assert abs(tint.mean() - 0.75) < 5 * 0.5 / math.sqrt(12 * tint.numel())
    noise = Sprites(look="noise").images(factors).reshape(500, 3, 32, 32)
    assert (noise[mask] == 1).all()
    rest = noise[~mask]
    assert abs(rest.mean() - 0.5) < 5 / math.sqrt(12 * rest.numel())
    assert abs(rest.var() - 1 / 12) < 5 / math.sqrt(180 * rest.numel())


@pytest.mark.parametrize("look", ["color", "noise"])
def test_a_generator_repeats_colors_and_noise(look):
    factors, sprites = drawn(5), Sprites(look=look)
    first, again, other = (
        sprites.images(factors, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class TestGrid:
    def test_numbers_are_in_the_order_of_nested_loops(self):
        every = torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 4)))
        grid = FactorGrid(("a", "b", "c"), (2, 3, 4))
        assert torch.equal(grid.at(torch.arange(24)), every)
        assert torch.equal(grid.number(every), torch.arange(24))
        assert len(GRID) == 737_280

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
    def test_small_types_of_whole_numbers_are_numbers(self, dtype):
        assert GRID.at(torch.tensor([3], dtype=dtype)).tolist() == [[0, 0, 0, 0, 3]]

    def test_lists_of_names_and_sizes_are_tuples(self):
        assert len({FactorGrid(["a"], [3]), FactorGrid(("a",), (3,))}) == 1

    def test_samples_hold_what_is_fixed_and_are_uniform_otherwise(self):
        found = drawn(12_000, shape=1, y=31)
        assert (found[:, 0] == 1).all()
        assert (found[:, 4] == 31).all()
        for column in (1, 2, 3):
            size = GRID.sizes[column]
            counts = torch.bincount(found[:, column], minlength=size)
            chi_square = ((counts - 12_000 / size) ** 2 / (12_000 / size)).sum()
            assert abs(chi_square - (size - 1)) < 5 * math.sqrt(2 * (size - 1))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: FactorGrid(("a", "a"), (2, 2)), "names .*'a', 'a'.* and sizes"),
            (lambda: FactorGrid(("a",), (0,)), "one size of at least 1"),
            (lambda: GRID.sample(2, fixed={"hue": 1}), "no factor 'hue': there are shape, scale"),
            (lambda: GRID.sample(2, fixed={"shape": 3}), "shape has values 0 to 2; got 3"),
            (lambda: FactorGrid(("a",), (2.5,)), "a whole number, .*2.5"),
            (lambda: FactorGrid((["a"],), (2,)), "one size of at least 1"),
            (lambda: GRID.sample(2, fixed={"shape": 1.5}), "shape has values 0 to 2; got 1.5"),
            (
                lambda: GRID.sample(2, fixed={"shape": "heart"}),
                "shape has values 0 to 2; got 'heart'",
            ),
            (lambda: GRID.sample(-1), "0 or more; got -1"),
            (lambda: Sprites(side=8.5), "got side=8.5"),
            (lambda: GRID.at(torch.tensor([737_280])), "from 0 to 737279; got 737280"),
            (lambda: GRID.at(torch.zeros(2)), "whole numbers; got torch.float32"),
            (
                lambda: GRID.number(torch.tensor([[0, 6, 0, 0, 0]])),
                "scale goes from 0 to 5; got 6",
            ),
            (
                lambda: Sprites().images(torch.zeros(2, 4).long()),
                r"\[N, 5\].*got torch.int64 \[2, 4",
            ),
            (lambda: Sprites().images(-torch.ones(1, 5).long()), "shape goes from 0 to 2; got -1"),
            (lambda: Sprites(side=7), "at least 8 pixels .* got side=7"),
            (lambda: Sprites(look="scream"), "look of binary, color, noise; .*'scream'"),
        ],
    )
    def test_what_is_no_combination_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestLoaded:
    def test_images_are_those_of_their_factors(self):
        data = load("sprites", limit=1000)
        assert data.factors == GRID.names
        assert data.domain is constraints.boolean
        assert [len(split) for split in data.splits.values()] == [800, 100, 100]
        for split in data.splits.values():
            assert torch.equal(split.x, Sprites().images(split.factors))
            assert split.labels is None
        numbers = torch.cat([GRID.number(split.factors) for split in data.splits.values()])
        assert len(numbers.unique()) == 1000

    def test_fifty_thousand_are_kept_or_a_gigabyte(self):
        for width, kept in ((32**2, 50_000), (64**2, 50_000), (3 * 64**2, 21_845)):
            rows = rows_kept(len(GRID), width, Reading())
            assert len(rows) == len(set(rows.tolist())) == kept
            assert rows.max() > 700_000
        assert rows_kept(40, 3, Reading()).tolist() == list(range(40))

    def test_a_look_a_size_and_a_factor_as_label(self):
        data = load("sprites", key="color", size=16, labels="shape", covariates=[], limit=50)
        assert data.shape == (3, 16, 16)
        assert data.domain is constraints.unit_interval
        assert torch.equal(data.train.labels, data.train.factors[:, 0])
        assert torch.equal(load("sprites", key="color", size=16, limit=50).test.x, data.test.x)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"key": "scream"}, "'sprites' has the looks binary, color, noise .*key='scream'"),
            ({"size": (32, 64)}, r"square images; .*size=\(32, 64\)"),
            ({"labels": "hue"}, "sprites has no column 'hue' beside x"),
            ({"limit": 0}, "limit is a number of images, at least 1; got 0"),
        ],
    )
    def test_what_sprites_have_not_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            load("sprites", **options)

    def test_a_limit_is_for_sets_of_factors(self):
        with pytest.raises(ValueError, match="digits has none: leave it out"):
            load("digits", limit=10)
