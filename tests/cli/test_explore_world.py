"""What the explorer shows, held against torch, known evidence and its own lines."""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td
from torch.distributions import constraints
from worlds import linear_gaussian, random

import pyrovae as pv
from pyrovae.cli.explore import Contents, World, bounds
from pyrovae.cli.explore.command import world_of
from pyrovae.cli.walk_options import Explored
from pyrovae.measure.disentanglement.saved import FACTORS, save_factors
from pyrovae.runs import Run
from pyrovae.runs.sources import Source


@pytest.fixture(scope="module")
def vae():
    with pv.seeded(0):
        return pv.mlp_vae(6, latents=3, hidden=8)


@pytest.fixture(scope="module")
def x():
    return random(0, 250, 6).gt(0).float()


@pytest.fixture(scope="module")
def world(vae, x):
    return World(vae, x)


def executed(world, lines, **known):
    """Execute the lines of a view after those that come before any; return their names."""
    names = dict(known)
    exec(f"{world.lines.start}\n{lines}", names)
    return names


def own(vae, x, *context):
    return {
        "vae": vae,
        "data": (x, *context),
        "x": x,
        "context": context,
        "torch": torch,
        "pv": pv,
    }


class TestMap:
    def test_it_has_the_posterior_means_and_their_principal_components(self, world, vae, x):
        z = vae.embed(x).double()
        found = world.world()["map"]
        assert torch.tensor(found["z"]) == pytest.approx(z, abs=6e-5)
        _, _, axes = torch.linalg.svd(z - z.mean(0), full_matrices=False)
        plane, wanted = np.array(found["planes"]["PCA"]["xy"]), (z - z.mean(0)) @ axes[:2].T
        assert abs(plane) == pytest.approx(abs(wanted.numpy()), abs=1e-4)

    def test_its_lines_compute_it(self, world, vae, x):
        said = world.world()
        names = executed(world, said["python"]["view"], **own(vae, x))
        assert names["plane"] == pytest.approx(
            np.array(said["map"]["planes"]["PCA"]["xy"]), abs=1e-4
        )

    def test_the_latents_are_ordered_by_kl(self, world, vae, x):
        q = vae.encode(x)
        kl = td.kl_divergence(td.Normal(q.mean, q.stddev), td.Normal(0.0, 1.0)).mean(0)
        latents = world.world()["latents"]
        assert [each["index"] for each in latents] == kl.argsort(descending=True).tolist()
        assert [each["kl"] for each in latents] == pytest.approx(
            kl.sort(descending=True)[0].tolist()
        )
        inside = torch.tensor([[each["low"], each["high"]] for each in latents])
        z = vae.embed(x)[:, [each["index"] for each in latents]]
        assert (inside[:, 0] <= z.amin(0)).all()
        assert (inside[:, 1] >= z.amax(0)).all()

    def test_the_draws_are_of_the_prior_and_of_the_posteriors(self, world, vae, x):
        found, q = world.world()["map"], vae.encode(x)
        prior, drawn = torch.tensor(found["prior"]), torch.tensor(found["aggregate"])
        assert prior.mean(0) == pytest.approx(torch.zeros(3), abs=5 / math.sqrt(len(prior)))
        assert prior.std(0) == pytest.approx(torch.ones(3), abs=5 / math.sqrt(len(prior)))
        units = (drawn - q.mean) / q.stddev
        assert units.std().item() == pytest.approx(1, abs=5 / math.sqrt(units.numel()))

    def test_tsne_is_computed_on_demand(self, vae, x):
        some = World(vae, x[:20])
        found = some.plane("t-SNE")
        names = executed(some, "z = vae.embed(data)\n" + found["python"], **own(vae, x[:20]))
        assert np.array(found["xy"]) == pytest.approx(names["plane"], abs=1e-3)
        with pytest.raises(ValueError, match="t-SNE needs 5 data or more; got 4"):
            World(vae, x[:4]).plane("t-SNE")
        with pytest.raises(ValueError, match="t-SNE alone; got 'UMAP'"):
            some.plane("UMAP")

    def test_one_latent_is_shown_with_its_deviation(self, x):
        vae = pv.mlp_vae(6, latents=1, hidden=8)
        (plane,) = World(vae, x).world()["map"]["planes"].values()
        q = vae.encode(x)
        assert torch.tensor(plane["xy"]) == pytest.approx(
            torch.cat([q.mean, q.stddev], 1).detach(), abs=6e-5
        )


def never_the_first_of_three_classes(z, x=None):
    logits = torch.tensor([-math.inf, 0.0, 1.0]).expand(*z.shape[:-1], 3)
    return pyro.sample("x", dist.OneHotCategorical(logits=logits), obs=x)


class TestDatum:
    def test_it_is_decoded_at_its_posterior_mean(self, world, vae, x):
        found, q = world.datum(7), vae.encode(x[[7]])
        assert found["x"] == x[7].tolist()
        assert found["z"] == pytest.approx(q.mean[0].tolist(), abs=6e-5)
        assert found["scale"] == pytest.approx(q.stddev[0].tolist(), abs=6e-5)
        assert found["reconstruction"] == pytest.approx(
            vae.decode(q.mean).mean[0].tolist(), abs=1e-6
        )

    def test_its_lines_compute_it(self, vae, x):
        world = World(vae, x)
        assert world.datum(120)["bound"] is None
        world.measure(100)
        found = world.datum(120)
        names = executed(world, found["python"], **own(vae, x))
        for name in ("iwae", "elbo", "khat"):
            assert names[name].item() == pytest.approx(found["bound"][name], abs=1e-5)
        assert names["reconstruction"][0].tolist() == pytest.approx(found["reconstruction"])

    def test_its_lines_take_labels_and_tables_that_all_data_share(self):
        class OfLabels(torch.nn.Module):
            def forward(self, z, x=None, label=None, table=None):
                logits = z.sum(-1, keepdim=True) + table[label]
                return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        class Guide(pv.guides.MeanFieldNormal):
            def forward(self, x, label, table):
                return super().forward(x)

        with pv.seeded(0):
            guide = Guide(pv.nets.MLP(6, 4))
            vae = pv.VAE(pv.priors.StandardNormal(2), OfLabels(), guide)
            x, label, table = torch.rand(9, 6).round(), torch.arange(9) % 3, torch.randn(3, 6)
        world = World(vae, (x, label, table))
        world.measure(0)
        found, names = world.datum(4), own(vae, x, label, table)
        done = executed(world, found["python"], **names)
        assert done["iwae"].item() == pytest.approx(found["bound"]["iwae"], abs=1e-5)
        assert done["reconstruction"][0].tolist() == pytest.approx(found["reconstruction"])
        found = world.decode([[0.5, 1.0], [0.0, -1.0]], 4)
        means = executed(world, found["python"], **names)["means"]
        assert means.flatten().tolist() == pytest.approx(sum(found["x"], []))

    def test_infinite_numbers_are_in_words(self):
        prior = pv.priors.StandardNormal(2)
        vae = pv.VAE(prior, never_the_first_of_three_classes, lambda x: prior())
        world = World(vae, torch.eye(3))
        world.measure(0)
        impossible, possible = (world.known(i)["bound"] for i in range(2))
        # With the exact posterior all weights are equal, whose tail is the lightest.
        assert possible["infinite"] == {"khat": "minus infinity"}
        assert impossible["iwae"] == impossible["elbo"] == -math.inf
        wanted = {"iwae": "minus infinity", "elbo": "minus infinity"}
        assert impossible["infinite"].items() >= wanted.items()

    def test_a_row_that_is_not_there_is_refused(self, world):
        with pytest.raises(ValueError, match="there are the data 0 to 249; got 250"):
            world.datum(250)


class TestPoint:
    Z = ((0.5, -1.25, 2.0), (0.0, 0.0, 1.0))

    def test_it_is_decoded_as_torch_does(self, world, vae):
        found = world.decode(self.Z)
        means = vae.decode(torch.tensor(self.Z)).mean.detach()
        assert torch.tensor(found["x"]) == pytest.approx(means, abs=1e-6)
        names = executed(world, found["python"], vae=vae, torch=torch)
        assert names["means"].detach() == pytest.approx(means, abs=1e-6)

    def test_its_densities_are_those_of_torch(self, world, vae, x):
        point, q = torch.tensor(self.Z[0]), vae.encode(x)
        found = world.density(self.Z[0])
        assert found["prior"] == pytest.approx(td.Normal(0.0, 1.0).log_prob(point).sum().item())
        each = td.Normal(q.mean, q.stddev).log_prob(point).sum(1)
        wanted = each.logsumexp(0).item() - math.log(len(x))
        assert found["aggregate"] == pytest.approx(wanted, abs=1e-4)

    @pytest.mark.parametrize("deviation", [0.1, 0.01])
    @pytest.mark.parametrize("z", [0.5, 0.0, -1.0])
    def test_a_hole_is_where_the_aggregate_posterior_has_none_of_the_priors_mass(
        self, z, deviation
    ):
        guide = pv.guides.MeanFieldNormal(Narrow(deviation))
        vae = pv.VAE(
            pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(pv.nets.MLP(1, 6)), guide
        )
        found = World(vae, torch.zeros(5, 6)).density([z])
        of_x = vae.encode(torch.zeros(1, 6))
        p = td.Normal(0.0, 1.0).log_prob(torch.tensor(z))
        q = td.Normal(of_x.mean, of_x.stddev).log_prob(torch.tensor(z))
        assert found["prior"] == pytest.approx(p.item())
        assert found["aggregate"] == pytest.approx(q.item(), rel=1e-4)
        said = found["hole"] or ""
        assert said.startswith("A hole: q(z) is below 0.05 p(z)") is bool(q < p + math.log(0.05))
        assert said.startswith("The prior is thin here") is bool(p < q + math.log(0.05))

    def test_the_shares_are_those_of_draws_of_torch(self):
        guide = pv.guides.MeanFieldNormal(Narrow(0.1))
        vae = pv.VAE(
            pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(pv.nets.MLP(1, 6)), guide
        )
        world, q = World(vae, torch.zeros(400, 6)), td.Normal(0.5, 0.1)
        draws = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
        hole = math.log(0.05) + td.Normal(0.0, 1.0).log_prob(draws)
        for z, share, words in (
            (-1.0, (q.log_prob(draws) < hole).double().mean().item(), "of the prior's draws"),
            (0.5, 0.0, None),
        ):
            said = world.density([z])["hole"]
            error = 5 * math.sqrt(share * (1 - share) / 64)
            assert (said is None) is (words is None)
            if said:
                percent = int(re.search(rf"(\d+)% {words}", said)[1])
                assert percent / 100 == pytest.approx(share, abs=error + 0.005)

    def test_draws_of_the_prior_are_given_the_context_of_each_datum(self):
        """The posteriors are the prior, which has two places: no draw of either lies in a hole."""

        def prior(c):
            return pyro.sample("z", dist.Normal(4 * c, 0.5).to_event(1))

        def likelihood(z, x=None, c=None):
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        vae = pv.VAE(prior, likelihood, lambda x, c: prior(c))
        c = torch.tensor([-1.0, 1.0, 1.0, 1.0]).repeat(50)[:, None]
        world = World(vae, (torch.zeros(200, 1), c))
        mean = torch.tensor(world.world()["map"]["prior"]).mean().item()
        assert mean == pytest.approx(2, abs=5 * 0.5 / math.sqrt(2000))
        density = world.density_at
        assert (density.share_in_holes, density.share_outside) == (0.0, 0.0)

    def test_the_lines_of_a_density_weigh_it(self, world, vae, x):
        found = world.density(self.Z[0])
        names = executed(world, found["python"], **own(vae, x))
        assert names["densities"] == found

    @pytest.mark.parametrize("z", ["a", [[1.0]], [[1.0, 2.0, math.nan]], [["a", 1.0, 2.0]]])
    def test_what_is_no_point_is_refused(self, world, z):
        with pytest.raises(ValueError, match="a point has 3 finite|rows of numbers"):
            world.decode(z)

    def test_the_path_between_two_data_is_that_of_interpolate(self, world, vae, x):
        z = world.world()["map"]["z"]
        found = world.path(z[3], z[8], 5, [3, 8])
        wanted = pv.interpolate(vae, x[[3, 8]], steps=5)
        assert torch.tensor(found["z"]) == pytest.approx(wanted.latents["z"], abs=1e-4)
        decoded = torch.tensor(world.decode(found["z"], 3)["x"])
        assert decoded == pytest.approx(wanted.means, abs=1e-4)
        names = executed(world, found["python"], vae=vae, x=x, pv=pv)
        assert torch.equal(names["means"], wanted.means)
        with pytest.raises(ValueError, match="2 to 100 points; got 1"):
            world.path(z[3], z[8], 1)


class Narrow(torch.nn.Module):
    """Return the mean 0.5 of one latent, and the parameter of its deviation."""

    def __init__(self, deviation):
        super().__init__()
        self.raw = math.log(math.expm1(deviation))

    def forward(self, x):
        loc = x.new_full((*x.shape[:-1], 1), 0.5)
        return torch.cat([loc, torch.full_like(loc, self.raw)], -1)


class TestBounds:
    def test_with_the_exact_posterior_they_are_the_evidence(self):
        pair = linear_gaussian("exact")
        world = World((pair.model, pair.guide), pair.x)
        found = world.measure(0)
        evidence = pair.log_evidence.tolist()
        assert found["iwae"] == pytest.approx(evidence)
        assert found["elbo"] == pytest.approx(evidence)
        assert found["lists"]["least known"] == np.argsort(evidence, kind="stable")[:20].tolist()
        assert found["lists"]["least trusted"] == []  # k-hat is minus infinity

    def test_all_batches_make_the_colors_and_the_lists(self, vae, x):
        world = World(vae, x)
        assert world.world()["lists"] == {}
        start, pieces = 0, []
        while start is not None:
            found = world.measure(start)
            pieces.append(found)
            start = found["next"]
        assert [len(piece["iwae"]) for piece in pieces] == [100, 100, 50]
        assert not any("colors" in piece for piece in pieces[:-1])
        whole = sum((piece["iwae"] for piece in pieces), [])
        assert pieces[-1]["colors"][bounds.IWAE]["values"] == whole
        assert (
            world.world()["lists"]["least known"] == np.argsort(whole, kind="stable")[:20].tolist()
        )

    def test_nan_is_in_no_list(self):
        nan, high = math.nan, [0.9, math.nan, 0.6, 0.2]
        found = bounds.lists({"iwae": [nan, -3.0, -9.0, -4.0], "khat": high})
        assert found == {"least known": [2, 3, 1], "least trusted": [0, 2]}

    def test_a_point_mass_has_no_bounds_and_no_aggregate_density(self, x):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8, 6)),
            pv.guides.Delta(pv.nets.MLP(6, 8, 2)),
        )
        world = World(vae, x)
        density = world.density([0.0, 0.0])
        assert density["prior"] == pytest.approx(
            2 * td.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
        )
        assert (density["aggregate"], density["hole"]) == (None, None)
        assert "is a Delta" in density["missing"]
        assert all(each["kl"] is None for each in world.world()["latents"])


def mixed():
    """Return a pair of plain programs with a class and a level that depends on it."""
    weight = random(3, 4, 2).float()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            z = pyro.sample("z", dist.Normal(c.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.stack([x[:, 0], x[:, 1]], -1)
            c = pyro.sample("c", dist.Categorical(logits=logits))
            loc = x[:, :2] + c.unsqueeze(-1)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    return model, guide


class TestPrograms:
    def test_plain_programs_with_a_class_are_shown(self):
        model, guide = mixed()
        x = random(4, 30, 4).float()
        world = World((model, guide), x)
        said = world.world()
        found = {each["name"]: each["discrete"] for each in said["latents"]}
        assert found == {"c[0]": True, "z[0]": False, "z[1]": False}
        decoded = world.decode([[1.0, 0.5, -0.5]])
        wanted = random(3, 4, 2).float() @ torch.tensor([0.5, -0.5])
        assert decoded["x"][0] == pytest.approx(wanted.tolist(), abs=1e-6)
        prior = td.Normal(1.0, 1.0).log_prob(torch.tensor([0.5, -0.5])).sum() - math.log(2)
        assert world.density([1.0, 0.5, -0.5])["prior"] == pytest.approx(prior.item(), abs=1e-5)
        names = executed(world, world.datum(3)["python"], **own((model, guide), x) | {"data": x})
        world.measure(0)
        assert names["iwae"].item() == pytest.approx(world.datum(3)["bound"]["iwae"], abs=1e-5)
        assert names["reconstruction"]["x"][0] == pytest.approx(world.datum(3)["reconstruction"])

    def test_a_sphere_is_walked_on_great_circles_and_says_why_it_has_no_sliders(self, x):
        vae = pv.VAE(
            pv.priors.UniformSphere(3),
            pv.likelihoods.Bernoulli(pv.nets.MLP(3, 6)),
            pv.guides.PowerSpherical(pv.nets.MLP(6, 4)),
        )
        world = World(vae, x[:20])
        z = world.posteriors.z.tolist()
        path = torch.tensor(world.path(z[0], z[1], 5)["z"])
        assert path.norm(dim=1) == pytest.approx(torch.ones(5), abs=1e-3)
        with pytest.raises(ValueError, match="outside the support of site 'z'"):
            world.decode([[2.0, 0.0, 0.0]])

    def test_classes_of_pixels_are_shown_at_their_most_probable_value(self):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Categorical(pv.nets.MLP(2, 4 * 3), classes=3),
            pv.guides.MeanFieldNormal(pv.nets.MLP(4, 2 * 2)),
        )
        found = World(vae, torch.ones(5, 4)).decode([[0.3, -0.2]])
        logits = vae.decode(torch.tensor([[0.3, -0.2]])).base_dist.logits
        assert found["of"] in ("most probable x", "mean of p(x | z)")
        if found["of"] == "most probable x":
            assert found["x"][0] == logits.argmax(-1)[0].tolist()

    def test_a_guide_without_latents_is_refused(self, x):
        with pytest.raises(ValueError, match="no latent site"):
            World((lambda x: None, lambda x: None), x)


def of_run(folder, vae, name, *, binarization="none", **options):
    data = pv.data.load(name, **options)
    source = Source(name, binarization=binarization, reading=options).of(data)
    table = {} if data.table is None else {"table": data.table.record}
    pv.save(vae(data), folder, data=source.record, **table)
    return folder


def reproduced(world, i=1):
    """Execute the lines of a datum as they are, in a namespace of their own."""
    world.measure(0)
    said = world.datum(i)
    names = executed(world, said["python"])
    for name in ("iwae", "elbo"):
        assert names[name].item() == pytest.approx(said["bound"][name], rel=1e-5)
    return names, said


class TestRuns:
    def test_digits_are_images_with_the_factors_of_their_latents(self, tmp_path):
        folder = of_run(
            tmp_path / "run",
            lambda data: pv.mlp_vae(64, 2, hidden=8),
            "digits",
            binarization="dynamic",
        )
        digits = pv.data.load("digits").test
        factors = torch.stack([digits.labels % 3, digits.labels // 3], 1)
        found = pv.assign(pv.load(folder).embed(digits), factors, names=("rest", "third"))
        save_factors(folder / FACTORS, found, run=Run(folder).config["run"])
        world = world_of(folder, Explored(number=50))
        said = world.world()
        assert (said["kind"], said["shape"], said["range"]) == ("image", [1, 8, 8], [0.0, 1.0])
        held = Run(folder).assignment().held
        assert {e["name"]: e["factor"] for e in said["latents"]} == {
            n: held.get(n) for n in ("z[0]", "z[1]")
        }
        label = said["colors"]["label"]
        assert [label["names"][v] for v in label["values"]] == [
            str(v) for v in digits.labels[:50].tolist()
        ]
        names, datum = reproduced(world)
        assert names["reconstruction"][0].tolist() == pytest.approx(
            datum["reconstruction"], abs=1e-6
        )
        assert datum["x"] == digits.draw()[1].tolist()

    def test_rows_with_covariates_are_decoded_with_those_of_the_datum(self, tmp_path):
        frame = pandas.DataFrame(random(5, 60, 3).float().numpy(), columns=list("abc"))
        frame["batch"] = ["x", "y", "z"] * 20
        frame["kind"] = ["thin", "thick"] * 30
        frame.to_csv(tmp_path / "rows.csv", index=False)

        def vae(_):
            return pv.VAE(
                pv.priors.StandardNormal(2),
                pv.likelihoods.Normal(pv.nets.MLP(2 + 3, 8, 3)),
                pv.guides.MeanFieldNormal(pv.nets.MLP(3 + 3, 8, 4)),
            )

        options = {"covariates": {"batch": "category"}, "labels": "kind", "key": list("abc")}
        folder = of_run(tmp_path / "run", vae, str(tmp_path / "rows.csv"), **options)
        world = world_of(folder, Explored(split="train"))
        said, loaded, data = world.world(), pv.load(folder), Run(folder).data("train")
        assert (said["kind"], said["columns"]) == ("table", ["a", "b", "c"])
        assert said["colors"]["batch"]["names"] == ["x", "y", "z"]
        assert said["colors"]["label"]["names"] == ["thick", "thin"]
        assert world.datum(1)["labels"]["label"] == ["thick", "thin"][data.labels[1]]
        assert said["colors"]["a"]["values"] == data.x[:, 0].tolist()
        found = [world.decode([[0.5, 0.5]], at)["x"][0] for at in (0, 1)]
        for at in (0, 1):
            mean = loaded.decode(torch.tensor([[0.5, 0.5]]), data.context[0][[at]]).mean
            assert found[at] == pytest.approx(mean[0].tolist(), abs=1e-6)
        names, datum = reproduced(world)
        assert names["reconstruction"][0].tolist() == pytest.approx(
            datum["reconstruction"], abs=1e-6
        )

    def test_mixed_columns_are_shown_in_words_and_gaps_as_missing(self, tmp_path):
        pytest.importorskip("narwhals")
        frame = pandas.DataFrame(
            {
                "height": [1.62, 1.8, None, 1.75] * 15,
                "children": [0, 2, 1, 0] * 15,
                "city": ["Bern", "Rome", "<script>alert(1)</script>", None] * 15,
            }
        )
        frame.to_csv(tmp_path / "people.csv", index=False)
        folder = of_run(
            tmp_path / "run",
            lambda data: pv.table_vae(data.table, 2, hidden=8),
            str(tmp_path / "people.csv"),
        )
        world = world_of(folder, Explored(split="train"))
        data, table = Run(folder).data("train"), Run(folder).table
        rows = table.decode(data.x, data.context[-1]).to_pandas()
        for i in range(6):
            height, children, city = rows.iloc[i]
            wanted = [
                "missing" if pandas.isna(height) else f"{height:.4g}",
                "missing" if pandas.isna(children) else f"{children:g}",
                "missing" if pandas.isna(city) else city,
            ]
            assert world.datum(i)["cells"] == wanted
        assert set(world.world()["colors"]["city"]["names"]) >= {"Bern", "missing"}
        z = [[0.2, -0.4]]
        found = world.decode(z)["cells"][0]
        with torch.no_grad():
            fn = pv.load(folder).likelihood.likelihood.observation(torch.tensor(z))
        city = next(p for p, g in zip(fn.parts, fn.groups, strict=True) if g.tolist() == [2])
        each = [city.log_prob(torch.tensor([[float(level)]])).item() for level in range(3)]
        most = np.argmax(each)
        assert found[2] == table.columns[2].levels[most]
        names, datum = reproduced(world)
        assert names["reconstruction"]["cells"][0] == datum["reconstruction cells"]
        names = executed(world, world.decode(z)["python"])
        assert names["found"]["cells"][0] == found

    def test_a_recipe_and_other_data_are_in_the_lines(self, tmp_path):
        recipe = tmp_path / "mine.py"
        recipe.write_text(
            "import pyrovae as pv\n\ndef vae(shape):\n    return pv.mlp_vae(64, 2, hidden=8)\n"
        )
        folder = of_run(
            tmp_path / "run",
            lambda data: pv.mlp_vae(64, 2, hidden=8),
            "digits",
            binarization="dynamic",
        )
        x = random(6, 12, 8, 8).gt(0).numpy().astype("uint8") * 255
        np.save(tmp_path / "others.npy", x)
        options = Explored(recipe=recipe, data=str(tmp_path / "others.npy"))
        reproduced(world_of(folder, options))


class TestContents:
    @pytest.mark.parametrize(
        ("shape", "domain", "columns", "kind"),
        [
            ((3, 4, 4), constraints.unit_interval, (), "image"),
            ((5,), constraints.nonnegative_integer, ("g1",) * 5, "counts"),
            ((7, 2), constraints.real, (), "sequence"),
            ((5,), constraints.real, tuple("abcde"), "table"),
            ((5,), constraints.real, (), "vector"),
            ((2, 4, 4), constraints.real, (), "sequence"),
        ],
        ids=["rgb", "counts", "sequence", "columns", "vector", "two channels"],
    )
    def test_each_kind_is_told(self, shape, domain, columns, kind):
        assert Contents(shape, domain, columns=columns).said["kind"] == kind


def test_several_threads_are_answered_as_one():
    """Pyro's stack of handlers is one for all threads: programs that ran at once would mix."""
    with pv.seeded(0):
        vae = pv.mlp_vae(4, latents=2, hidden=3)
        world = World(vae, torch.bernoulli(torch.full((20, 4), 0.5)))
    points = [[0.1 * i, -0.2 * i] for i in range(60)]
    wanted = [(world.density(z), world.decode([z])) for z in points]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda z: (world.density(z), world.decode([z])), points))
    assert found == wanted
