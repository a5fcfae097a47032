"""The explorer as a file: opened without a network, it shows what torch computes."""

import json
import math
import re

import all_cases
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from browsers import chromium, pixels, until
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.cli.explore import Contents, World, file
from pyrovae.cli.explore.forward import forward
from pyrovae.cli.explore.network import as_columns, unpacked, with_weights
from pyrovae.runs.sources import Source

WORDS = "</script><script>window.ran = true</script>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class opened:  # noqa: N801
    """Open a file with the network off; hold that it asked for nothing and had no error."""

    def __init__(self, browser, path, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        self.context = browser.new_context(offline=True, **options)
        self.url, self.asked, self.errors = path.as_uri(), [], []

    def __enter__(self):
        page = self.context.new_page()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text))
        page.goto(self.url)
        page.wait_for_selector("#datum figure, #datum table, #trouble:not([hidden])")
        return page

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert self.errors == []
            assert [u for u in self.asked if u != self.url and not u.startswith("data:")] == []


def written(world, folder):
    path = folder / "page.html"
    said = file.write(world, path)
    return path, said


@pytest.fixture(scope="module")
def digits():
    with pv.seeded(0):
        vae = pv.mlp_vae(64, latents=3, hidden=16)
        pv.fit(vae, pv.data.load("digits").train.take(slice(300)), epochs=2, callbacks=())
    data = pv.data.load("digits").test.take(slice(40))
    names = [WORDS if label == 4 else str(label) for label in data.labels.tolist()]
    contents = Contents((1, 8, 8), constraints.boolean)
    return World(vae, data, contents=contents, title=WORDS, colors={"word": names})


@pytest.fixture(scope="module")
def digits_file(digits, tmp_path_factory):
    return written(digits, tmp_path_factory.mktemp("digits"))


def asked(page, call):
    """Return what the source of a page answers."""
    return page.evaluate(f"explorer.source.{call}")


def close(found, wanted):
    found, wanted = (torch.as_tensor(each, dtype=torch.float64) for each in (found, wanted))
    return bool(((found - wanted).abs() <= 1e-5 * (1 + wanted.abs())).all())


def test_a_slider_changes_the_image_to_what_torch_decodes(browser, digits, digits_file):
    with opened(browser, digits_file[0]) as page:
        before = pixels(page, "#decoded canvas")
        slider = page.locator("#sliders input").first
        slider.focus()
        for _ in range(12):
            page.keyboard.press("ArrowRight")
        until(page, "$('decoded').dataset.z === JSON.stringify(explorer.z)")
        z = json.loads(page.evaluate("$('decoded').dataset.z"))
        assert z != digits.world()["map"]["z"][0]
        wanted = digits.target.decode(torch.tensor([z])).mean[0].detach()
        assert close(asked(page, f"decode([{z}])")["x"][0], wanted)
        after = pixels(page, "#decoded canvas")
        assert after != before
        near = (torch.tensor(after) - 255 * wanted.double()).abs().max()
        assert near < 0.501  # the canvas rounds to whole levels


def test_a_datum_its_posterior_and_its_bounds_are_those_of_the_world(browser, digits, digits_file):
    with opened(browser, digits_file[0]) as page:
        for i in (0, 7, 39):
            found, wanted = asked(page, f"datum({i})"), digits.datum(i)
            assert close(found["x"], wanted["x"])
            assert close(found["reconstruction"], wanted["reconstruction"])
            assert close(found["scale"], digits.posteriors.scale[i])
            assert found["z"] == wanted["z"]
            same = ("of", "labels", "python")
            assert [found[name] for name in same] == [wanted[name] for name in same]
            assert found["bound"].keys() == wanted["bound"].keys()
            for name, value in wanted["bound"].items():
                assert found["bound"][name] == pytest.approx(value, abs=5.1e-5)
        until(page, "explorer.datum === 0 && $('facts').textContent.includes('ELBO')")


def test_the_first_view_has_the_map_the_lists_and_the_colors_of_the_world(
    browser, digits, digits_file
):
    with opened(browser, digits_file[0]) as page:
        found, wanted = page.evaluate("explorer.world"), json.loads(json.dumps(digits.world()))
        assert found["exact"]
        assert found["decoder"]["error"] < 1e-5
        for name in ("latents", "lists", "colors", "shape", "kind", "title", "python"):
            assert found[name] == wanted[name], name
        assert found["map"]["z"] == wanted["map"]["z"]
        assert found["map"]["planes"] == wanted["map"]["planes"]


def test_densities_and_holes_are_those_of_the_world(browser, digits, digits_file):
    points = [*digits.posteriors.z[:3].tolist(), [0.0, 0.0, 0.0], [9.0, -9.0, 9.0], [0, 4, 0]]
    holes = set()
    with opened(browser, digits_file[0]) as page:
        for z in points:
            found, wanted = asked(page, f"density({z})"), digits.density(z)
            for name in ("prior", "aggregate"):
                assert found[name] == pytest.approx(wanted[name], abs=1e-3, rel=1e-4)
            assert [found[name] for name in ("hole", "python")] == [
                wanted[name] for name in ("hole", "python")
            ]
            assert found["missing"] is None
            holes.add(found["hole"] and found["hole"][:6])
    assert None in holes
    assert len(holes) > 1


def test_the_density_of_a_mixture_of_normals_is_in_the_file(browser, tmp_path):
    with pv.seeded(0):
        prior = pv.priors.MixtureOfNormals(2, components=3)
        vae = pv.mlp_vae(8, latents=2, hidden=4)
        prior.logits.data = torch.tensor([0.0, 1.0, -2.0])
    world = World(pv.VAE(prior, vae.likelihood, vae.posterior), torch.rand(10, 8).round())
    path, _ = written(world, tmp_path)
    with opened(browser, path) as page:
        for z in ([0.0, 0.0], [1.5, -0.5], [-4.0, 3.0]):
            found = asked(page, f"density({z})")["prior"]
            assert found == pytest.approx(world.density(z)["prior"], abs=1e-3)


def test_two_data_are_interpolated_as_in_the_world(browser, digits, digits_file):
    with opened(browser, digits_file[0]) as page:
        z = digits.world()["map"]["z"]
        found = asked(page, f"path({z[0]}, {z[5]}, 9, [0, 5])")
        wanted = digits.path(z[0], z[5], 9, [0, 5])
        assert torch.tensor(found["z"]).sub(torch.tensor(wanted["z"])).abs().max() < 1.1e-4
        assert found["python"] == wanted["python"]
        for i, end in ((0, "from"), (5, "to")):
            page.fill("#index", str(i))
            page.keyboard.press("Enter")
            page.click(f"#{end}")
        page.wait_for_selector("#between canvas >> nth=8")
        steps = asked(page, f"decode({found['z']})")
        assert close(steps["x"], digits.decode(found["z"])["x"])
        assert steps["python"] == digits.decode(found["z"])["python"]


def test_words_that_look_like_a_script_are_text(browser, digits_file):
    path, _ = digits_file
    html = path.read_text()
    assert html.lower().count("</script") == 1
    with opened(browser, path) as page:
        assert page.text_content("#title") == WORDS
        page.select_option("#color", "word")
        assert WORDS in page.text_content("#legend")
        assert page.evaluate("window.ran") is None
        assert page.evaluate("document.scripts.length") == 1


def test_the_policy_of_a_file_permits_no_connection(browser, digits_file):
    path, _ = digits_file
    policy = re.search('Content-Security-Policy" content="([^"]*)"', path.read_text())[1]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector("#datum figure")
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => null)")
    page.evaluate("document.body.append(element('script', {textContent: 'window.ran = true'}))")
    assert page.evaluate("window.ran") is None
    page.close()
    refused = [text for text in said if "violates the following Content Security Policy" in text]
    assert len(refused) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_file_fits_a_narrow_screen(browser, digits_file, scheme):
    narrow = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    with opened(browser, digits_file[0], **narrow) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 380) == (scheme == "light")


def mnist_like(decoder, encoder, latents):
    """Return a world of the size of MNIST; weights that were never trained compress least."""
    vae = pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.likelihoods.Bernoulli(decoder),
        pv.guides.MeanFieldNormal(encoder),
    )
    strokes = torch.nn.functional.interpolate(torch.rand(2000, 1, 7, 7), 28, mode="bilinear")
    return World(vae, (strokes > 0.55).float().flatten(1), contents=Contents((1, 28, 28)))


@pytest.mark.parametrize("name", ["400", "200-200"])
def test_a_file_of_2000_images_is_below_3_mb(name, monkeypatch):
    nets = {
        "400": (pv.nets.MLP(20, 400, 784), pv.nets.MLP(784, 400, 40), 20),
        "200-200": (pv.nets.MLP(50, 200, 200, 784), pv.nets.MLP(784, 200, 200, 100), 50),
    }
    # The bounds are as long whatever they are, and K = 100 of them take most of the time.
    monkeypatch.setattr("pyrovae.cli.explore.bounds.PARTICLES", 5)
    page = file.page(mnist_like(*nets[name]))
    assert 1_000_000 < len(page) < 3_000_000


@pytest.fixture(scope="module")
def people():
    """Return a table of every kind of column, with gaps."""
    rows = 60
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(rows, 5, generator=generator)
    frame = pandas.DataFrame(
        {
            "height": [1.5 + 0.4 * v if v > 0.15 else None for v in draws[:, 0].tolist()],
            "children": (4 * draws[:, 1]).int().tolist(),
            "city": [["Bern", "<b>Rome</b>", "Oslo"][int(3 * v)] for v in draws[:, 2]],
            "grade": (5 * draws[:, 3]).int().tolist(),
            "member": (draws[:, 4] > 0.5).tolist(),
        }
    )
    table = pv.data.Table.of(frame, columns={"grade": "ordinal"})
    with pv.seeded(0):
        vae = pv.table_vae(table, latents=2)
        for value in vae.likelihood.parameters():
            value.data.add_(0.1 * torch.randn_like(value))
    contents = Contents((5,), columns=(), table=table)
    return World(vae, table.encode(frame), contents=contents, title="people")


def test_rows_of_a_table_are_decoded_to_the_words_of_the_world(browser, people, tmp_path):
    path, said = written(people, tmp_path)
    assert "The decoder runs in this page" in said
    far = [[3.0, -2.0], [-3.0, 1.0], [0.5, 4.0], [-1.0, -3.0]]
    points = [*people.posteriors.z[:20].tolist(), *far]
    with opened(browser, path) as page:
        found, wanted = asked(page, f"decode({points})"), people.decode(points)
        assert found["cells"] == wanted["cells"]
        assert found["of"] == wanted["of"] == "most probable x"
        columns = zip(*wanted["cells"], strict=True)
        assert sum(len(set(words)) > 1 for words in columns) >= 4
        gap = [row[0] for row in people.given.context[-1].tolist()].index(False)
        for i in (0, gap):
            one, other = asked(page, f"datum({i})"), people.datum(i)
            for name in ("cells", "observed", "reconstruction cells"):
                assert one[name] == other[name]
        page.fill("#index", str(gap))
        page.keyboard.press("Enter")
        until(page, "$('datum').textContent.includes('missing')")


def test_numbers_have_the_digits_that_python_gives_them(browser, digits_file):
    values = [0.0, 1.0, 12.3456, -0.00012345, 1.5e-7, 123456.0, 99999.0, 9999.6, 1e22, 0.1]
    with opened(browser, digits_file[0]) as page:
        found = page.evaluate(f"{values}.map(general)")
    assert found == [f"{value:.4g}" for value in values]


def spherical():
    with pv.seeded(0):
        vae = pv.VAE(
            pv.priors.UniformSphere(3),
            pv.likelihoods.Bernoulli(pv.nets.MLP(3, 8, 16)),
            pv.guides.PowerSpherical(pv.nets.MLP(16, 8, 4)),
        )
    return World(vae, torch.rand(20, 16).round())


def test_paths_on_a_sphere_are_great_circles(browser, tmp_path):
    world = spherical()
    path, _ = written(world, tmp_path)
    a, b = world.posteriors.draws[:2].tolist()
    with opened(browser, path) as page:
        found, wanted = asked(page, f"path({a}, {b}, 5)"), world.path(a, b, 5)
        assert torch.tensor(found["z"]).sub(torch.tensor(wanted["z"])).abs().max() < 1.1e-4
        assert torch.tensor(found["z"]).norm(dim=1).sub(1).abs().max() < 1e-3
        density = asked(page, f"density({a})")
        assert density["prior"] is None
        assert "is not in this file" in density["missing"]
        assert "unknown" in page.text_content("#density")


def test_a_decoder_with_a_context_takes_that_of_the_datum(browser, tmp_path):
    torch.manual_seed(0)
    case = all_cases.CASES["nets: conditional Conv"]()
    world = World(case.vae, (case.x, *case.context))
    path, said = written(world, tmp_path)
    assert "The decoder runs in this page" in said
    z = [0.3, -0.4]
    with opened(browser, path) as page:
        for at in range(len(case.x)):
            assert close(asked(page, f"decode([{z}], {at})")["x"], world.decode([z], at)["x"])
            found = asked(page, f"datum({at})")["reconstruction"]
            assert close(found, world.datum(at)["reconstruction"])
    assert not close(world.decode([z], 0)["x"], world.decode([z], 1)["x"])


def test_latents_of_several_sites_reach_the_decoder_in_its_order(browser, tmp_path):
    with pv.seeded(0):
        two = pv.guides.MeanFieldNormal(pv.nets.MLP(8, 2 * 2))
        one = pv.guides.MeanFieldNormal(pv.nets.MLP(8 + 2, 2 * 1))
        vae = pv.VAE(
            pv.priors.Joint(b=pv.priors.StandardNormal(1), a=pv.priors.StandardNormal(2)),
            pv.likelihoods.Normal(pv.nets.MLP(3, 5, 8)),
            pv.guides.Joint(a=two, b=one),
        )
    world = World(vae, torch.randn(12, 8))
    decoder = file.contents(world)["world"]["decoder"]
    assert decoder["layers"][0] == {"kind": "pick", "places": [2, 0, 1]}
    path, _ = written(world, tmp_path)
    z = [0.5, -1.0, 2.0]
    with opened(browser, path) as page:
        assert close(asked(page, f"decode([{z}])")["x"], world.decode([z])["x"])


WITHOUT_A_DECODER = {
    "codes: VectorQuantized, two levels": "something else than the latents",
    "codes: AutoregressiveCodes, two levels": "something else than the latents",
    "latents: Categorical": "something else than the latents",
    "latents: RelaxedOneHot": "something else than the latents",
    "latents: ResidualLadder": "something else than the latents",
    "latents: Label and OfContext": "class Label",
}


@pytest.mark.parametrize(
    "name",
    [n for n in all_cases.CASES if n.startswith(("codes:", "flows:", "latents:", "priors:"))],
)
def test_latents_of_every_family_are_decoded_as_in_the_world(name, monkeypatch):
    monkeypatch.setattr("pyrovae.cli.explore.bounds.PARTICLES", 5)
    torch.manual_seed(0)
    case = all_cases.CASES[name]()
    world = World(case.vae, (case.x, *case.context))
    found = file.contents(world)
    decoder = found["world"]["decoder"]
    if name in WITHOUT_A_DECODER:
        assert decoder is None
        assert WITHOUT_A_DECODER[name] in found["world"]["note"]
        assert found["decoded"]["x"]["width"] == case.x[0].numel()
        return
    z = world.posteriors.draws[[0]]
    context = [value[:1].double() for value in as_columns(case.vae, *world.given.context)]
    means = forward(with_weights(decoder), torch.cat([z, *context], -1).float())
    assert close(means.detach(), world.decode(z.tolist(), 0)["x"])


class Own(torch.nn.Module):
    """A likelihood whose network is no layer of the library."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 64))

    def forward(self, z, x=None):
        fn = dist.Bernoulli(logits=torch.sin(z @ self.weight)).to_event(1)
        return pyro.sample("x", fn, obs=x)


def test_a_decoder_of_ones_own_is_shown_at_points_decoded_before(browser, tmp_path):
    with pv.seeded(0):
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4))
        vae = pv.VAE(pv.priors.StandardNormal(2), Own(), guide)
        data = torch.rand(20, 64).round()
    world = World(vae, data, contents=Contents((1, 8, 8)))
    path, said = written(world, tmp_path)
    assert "The decoder is not in this page: the mean of a likelihood of class Own" in said
    with opened(browser, path) as page:
        assert "The decoder is not in this page" in page.text_content("#byline")
        datum = world.datum(3)
        assert close(asked(page, "datum(3)")["reconstruction"], datum["reconstruction"])
        plane = page.evaluate("explorer.source.said.decoded.plane")
        i, j = 4, 9
        point = [0.0, 0.0]
        for axis, levels, place in zip(plane["axes"], plane["levels"], (i, j), strict=True):
            point[axis] = levels[place] + 1e-3
        exact = [value - 1e-3 for value in point]
        found = asked(page, f"decode([{point}])")
        assert close(found["x"], world.decode([exact])["x"])
        assert not close(found["x"], world.decode([[v + 0.5 for v in exact]])["x"])
        assert "nearest" in said
        assert re.match(r"mean of p\(x \| z\) at z\[\d\] = ", found["of"])


class OfLabels(torch.nn.Module):
    """A likelihood of z and a label [N], whose network is no layer of the library."""

    def __init__(self):
        super().__init__()
        self.weight, self.shift = (torch.nn.Parameter(torch.randn(n, 6)) for n in (2, 3))

    def forward(self, z, x=None, label=None):
        fn = dist.Bernoulli(logits=torch.sin(z @ self.weight) + self.shift[label]).to_event(1)
        return pyro.sample("x", fn, obs=x)


class Collapsed(torch.nn.Module):
    """A guide that is the prior."""

    def forward(self, x, label):
        return pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def collapsed():
    with pv.seeded(0):
        vae = pv.VAE(pv.priors.StandardNormal(2), OfLabels(), Collapsed())
        return World(vae, (torch.rand(9, 6).round(), torch.arange(9) % 3))


def test_data_with_one_posterior_mean_have_their_own_reconstructions(browser, tmp_path):
    world = collapsed()
    path, said = written(world, tmp_path)
    assert "a plane of two latents, given the context of datum 0" in said
    with opened(browser, path) as page:
        for i in (0, 4, 8):
            wanted = world.datum(i)["reconstruction"]
            assert close(asked(page, f"datum({i})")["reconstruction"], wanted)
            assert close(asked(page, f"decode([[0, 0]], {i})")["x"][0], wanted)
    assert not close(world.datum(0)["reconstruction"], world.datum(4)["reconstruction"])


def test_a_prior_that_depends_on_the_context_is_not_in_the_file():
    with pv.seeded(0):
        x, context = torch.rand(12, 6).round(), torch.randn(12, 2)
        prior = pv.priors.ConditionalNormal(pv.nets.MLP(2, 8, 4))
        likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(4, 8, 6))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(8, 8, 4))
    world = World(pv.VAE(prior, likelihood, guide), (x, context))
    assert world.density([0.3, -0.2], 0)["prior"] != world.density([0.3, -0.2], 5)["prior"]
    found = file.contents(world)["density"]
    assert found["prior"] is None
    assert "it depends on the context of each datum" in found["missing"]
    same = World(pv.VAE(prior, likelihood, guide), (x, context[:1].expand(12, 2)))
    assert file.contents(same)["density"]["prior"] is not None


def test_a_component_without_weight_is_not_in_the_file():
    with pv.seeded(0):
        prior = pv.priors.MixtureOfNormals(2, components=3)
        vae = pv.mlp_vae(8, latents=2, hidden=4)
        prior.logits.data = torch.tensor([0.0, -math.inf, -2.0])
        world = World(pv.VAE(prior, vae.likelihood, vae.posterior), torch.rand(10, 8).round())
    found = file.contents(world)["density"]["prior"]
    assert torch.tensor(found["logits"]).softmax(0)[0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert len(unpacked(found["loc"], "f4")) == 2 * 2


def test_a_context_that_all_data_share_is_no_input_of_the_page():
    class Shifted(Own):
        def forward(self, z, x=None, table=None):
            fn = dist.Bernoulli(logits=z @ self.weight + table.sum(0)).to_event(1)
            return pyro.sample("x", fn, obs=x)

    class Guide(pv.guides.MeanFieldNormal):
        def forward(self, x, table):
            return super().forward(x)

    with pv.seeded(0):
        vae = pv.VAE(pv.priors.StandardNormal(2), Shifted(), Guide(pv.nets.MLP(64, 4)))
        world = World(vae, (torch.rand(8, 64).round(), torch.randn(5, 64)))
    found = file.contents(world)
    assert found["world"]["decoder"] is None
    assert "the context is not a tensor with a row for each datum" in found["world"]["note"]


def test_a_vae_in_training_mode_is_written_as_in_evaluation_mode_and_left_as_it_was():
    layers = torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5)
    with pv.seeded(0):
        net = torch.nn.Sequential(torch.nn.Linear(6, 8), *layers, torch.nn.Linear(8, 4))
        vae = pv.mlp_vae(6, latents=2, hidden=4)
        guide = pv.guides.MeanFieldNormal(pv.nets.Folded(net))
        world = World(pv.VAE(vae.prior, vae.likelihood, guide).train(), torch.rand(20, 6).round())
    before = [value.clone() for value in guide.buffers()]
    found = file.contents(world)["density"]
    assert found["aggregate"]
    assert found["missing"] is None
    assert all(map(torch.equal, guide.buffers(), before))
    assert guide.training


def test_a_pair_of_plain_programs_is_shown_at_points_decoded_before(tmp_path):
    with pv.seeded(0):
        vae = pv.mlp_vae(6, latents=2, hidden=4)
    world = World((vae.model, vae.guide), torch.rand(10, 6).round())
    found = file.contents(world)
    assert found["world"]["decoder"] is None
    assert "a program of one's own" in found["world"]["note"]
    assert found["decoded"]["x"]["width"] == 6


@pytest.mark.parametrize(
    ("values", "kind", "exact"),
    [
        (torch.tensor([[0.0, 1.0]]), "u1", True),
        (torch.tensor([[3.0, 255.0]]), "u1", True),
        (torch.tensor([[7.0, 128.0]]) / 255, "u1", True),
        (torch.tensor([[0.5, 0.25]]), "f4", True),
        (torch.tensor([[-1.0, 300.0]]), "f4", True),
        (torch.rand(1, 300_000), "u1", False),
    ],
    ids=["bits", "levels", "intensities", "few floats", "reals", "many floats"],
)
def test_numbers_are_bytes_where_these_have_the_values(values, kind, exact):
    class OfImages:
        contents = Contents((1, 8, 8))

    found = file._numbers(OfImages, values)
    assert (found["type"], found["exact"]) == (kind, exact)
    numbers = unpacked(found["numbers"], kind) * found["by"] + found["plus"]
    error = abs(numbers - values.flatten().numpy()).max()
    assert error < (1e-6 if exact else 0.51 / 255)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pv.seeded(0):
        vae = pv.mlp_vae(64, latents=2, hidden=8)
    source = Source("digits", binarization="dynamic").of(pv.data.load("digits"))
    folder = tmp_path_factory.mktemp("saved") / "run"
    pv.save(vae, folder, data=source.record)
    return folder


def test_the_command_writes_one_file(run, tmp_path, capsys):
    before = sorted(run.rglob("*"))
    out = tmp_path / "page.html"
    assert main(["explore", str(run), "--out", str(out), "-n", "12"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(rf"written: {out} \(\d\.\d MB, 12 data\)\. The decoder runs .*\n", said)
    assert "<title>run</title>" in out.read_text()
    assert sorted(run.rglob("*")) == before


def test_a_file_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    out = str(tmp_path / "taken" / "page.html")
    assert main(["explore", str(run), "--out", out, "-n", "5"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_fewer_large_data_are_in_a_file():
    assert file.fitting(784) == file.MOST
    assert file.fitting(3 * 64 * 64) * 3 * 64 * 64 < file.NUMBERS
    assert file.fitting(10**9) == file.FEWEST
    assert math.isclose(file.fitting(2000), 1000)
