"""An experiment is one thing, in a file, as options and in a run's folder."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from complaints import complaint

import pyrovae as pv
from pyrovae.cli import build, experiment, main
from pyrovae.cli.grammar import APP
from pyrovae.cli.train import asked

OPTIONS = (
    "--prior VampPrior --prior.components 7 --latents 2 --likelihood Normal "
    "--likelihood.scale network --guide LowRankNormal --guide.rank 1 --net GatedMLP --hidden 8 6 "
    "--objective IWAE --particles 3 --gradient dreg --data digits --binarization none "
    "--epochs 1 --batch-size 400 --lr 0.002 --seed 3 --kl-weight 0.5"
)
TOML = """
[prior]
name = "VampPrior"
components = 7
latents = 2

[likelihood]
name = "Normal"
scale = "network"

[guide]
name = "LowRankNormal"
rank = 1

[net]
name = "GatedMLP"
hidden = [8, 6]

[objective]
name = "IWAE"
particles = 3
gradient = "dreg"

[data]
name = "digits"
binarization = "none"

[training]
epochs = 1
batch_size = 400
lr = 0.002
seed = 3
kl_weight = 0.5
"""
LADDER = """
[prior]
name = "Hierarchical"

[[prior.levels]]
name = "StandardNormal"
latents = 2

[[prior.levels]]
name = "ConditionalNormal"
latents = 3

[net]
hidden = [8]

[training]
epochs = 1
batch_size = 400
"""
RECIPE = """
import pyrovae as pv

def vae(shape):
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64))
    return pv.VAE(prior, likelihood, pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4)))

def prior():
    return pv.priors.StandardNormal(2)()
"""


def experiment_of(*words) -> dict:
    """Return the experiment that a command line of `pyrovae train` asks for."""
    rest, entries = experiment.split(["train", "--out", "none", *map(str, words)])
    _, bound, _ = APP.parse_args(rest, exit_on_error=False, print_error=False)
    (file,) = bound.args or (None,)
    return asked(file, bound.kwargs["options"], entries)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "experiment.toml").write_text(TOML)
    argv = ["train", str(folder / "experiment.toml"), "--out", str(folder / "run")]
    assert main(argv) == 0
    return folder / "run"


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    yield path
    sys.modules.pop("recipe_mine", None)


class TestLayers:
    def test_a_file_is_what_its_options_are(self, file):
        wanted = experiment_of(*OPTIONS.split())
        wanted["training"]["kl_weight"] = 0.5  # an option is text until it is read
        assert experiment_of(file) == wanted
        assert experiment_of("--config", file) == wanted

    def test_they_train_the_same_vae(self, run, tmp_path):
        assert main(["train", *OPTIONS.split(), "--out", str(tmp_path / "again")]) == 0
        first, again = (pv.load(folder).state_dict() for folder in (run, tmp_path / "again"))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_every_short_option_is_an_entry_of_a_table(self, file):
        long = (
            "--prior.name=VampPrior --prior.components=7 --prior.latents=2 --likelihood.name "
            "Normal --likelihood.scale network --guide.name LowRankNormal --guide.rank 1 "
            "--net.name GatedMLP --net.hidden [8,6] --objective.name IWAE --objective.particles 3 "
            "--objective.gradient dreg --data.name digits --data.binarization none "
            "--training.epochs 1 --training.batch-size 400 --training.lr 0.002 "
            "--training.seed 3 --training.kl-weight 0.5"
        )
        assert experiment_of(*long.split()) == experiment_of(file)

    def test_options_go_over_the_file(self, file):
        more = "--prior.components 100 --training.epochs 3 --lr 0.1 --no-compile"
        found = experiment_of(file, *more.split())
        assert found["prior"] == {"name": "VampPrior", "components": 100, "latents": 2}
        assert (found["training"]["epochs"], found["training"]["lr"]) == (3, 0.1)
        assert found["training"]["compile"] is False
        assert found["training"]["batch_size"] == 400

    def test_another_part_begins_anew_and_keeps_its_width(self, file):
        found = experiment_of(file, "--prior", "StandardNormal", "--net", "ResidualMLP")
        assert found["prior"] == {"name": "StandardNormal", "latents": 2}
        assert found["net"] == {"name": "ResidualMLP", "hidden": [8, 6]}

    def test_nested_parts_are_tables_or_dotted_options(self, tmp_path):
        path = tmp_path / "masked.toml"
        path.write_text(
            '[likelihood]\nname = "Masked"\n[likelihood.likelihood]\nname = "Normal"\n'
        )
        dotted = "--likelihood Masked --likelihood.likelihood Normal".split()
        found = experiment_of(*dotted)["likelihood"]
        found["likelihood"] = experiment.named(found["likelihood"])
        assert found == experiment_of(path)["likelihood"]
        scaled = experiment_of(*dotted, "--likelihood.likelihood.scale", "0.5")
        assert scaled["likelihood"]["likelihood"] == {"name": "Normal", "scale": 0.5}

    def test_a_ladder_is_trained_from_its_tables(self, tmp_path):
        (tmp_path / "ladder.toml").write_text(LADDER)
        argv = ["train", str(tmp_path / "ladder.toml"), "--guide", "Ladder"]
        assert main([*argv, "--out", str(tmp_path / "run")]) == 0
        assert isinstance(pv.load(tmp_path / "run").posterior, pv.guides.Ladder)

    def test_the_one_in_the_help_is_an_experiment(self, tmp_path, capsys):
        main(["train", "--help"])
        text = capsys.readouterr().out.split("an experiment, experiment.toml:\n")[1]
        lines = [line[2:] for line in text.split("a recipe")[0].splitlines()]
        (tmp_path / "experiment.toml").write_text("\n".join(lines))
        found = experiment_of(tmp_path / "experiment.toml")
        assert found["prior"] == {"name": "VampPrior", "components": 100, "latents": 10}
        assert build.vae(found, pv.data.load("digits")).prior.pseudo_inputs.shape == (100, 64)

    def test_the_one_in_the_readme_is_its_command(self, tmp_path):
        text = (Path(__file__).parents[2] / "README.md").read_text()
        before, table, *_ = text.split("```toml\n")
        (tmp_path / "readme.toml").write_text(table.split("```")[0])
        command = before.rsplit("```console\npyrovae train ", 1)[1].split("--out")[0]
        command = command.replace("\\", "")
        assert experiment_of(tmp_path / "readme.toml") == experiment_of(*command.split())


class TestLike:
    def test_a_run_records_the_experiment(self, run, file):
        config = json.loads((run / "config.json").read_text())
        assert config["experiment"] == experiment_of(file)
        assert experiment_of("--like", run) == experiment_of(file)

    def test_a_file_goes_over_it_and_options_over_both(self, run, tmp_path):
        (tmp_path / "more.toml").write_text("[training]\nepochs = 5\nseed = 9\n")
        found = experiment_of(tmp_path / "more.toml", "--like", run, "--seed", "1")
        assert (found["training"]["epochs"], found["training"]["seed"]) == (5, 1)
        assert found["prior"]["components"] == 7

    def test_the_folder_of_the_data_is_recorded_whole(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        argv = ["train", "--root", "data", "--epochs", "1", "--batch-size", "400"]
        assert main([*argv, "--out", "run"]) == 0
        config = pv.runs.Run(tmp_path / "run").config
        assert config["experiment"]["data"]["root"] == str(tmp_path / "data")

    def test_it_trains(self, run, tmp_path):
        argv = ["train", "--like", str(run), "--prior.components", "4"]
        assert main([*argv, "--out", str(tmp_path / "run")]) == 0
        assert pv.load(tmp_path / "run").prior.pseudo_inputs.shape == (4, 64)

    def test_what_a_stranger_wrote_is_checked_and_not_run(self, run, tmp_path, capsys):
        folder = tmp_path / "strange"
        folder.mkdir()
        config = json.loads((run / "config.json").read_text())
        config["experiment"]["prior"] = {"name": "os.system"}
        (folder / "config.json").write_text(json.dumps(config))
        line = complaint(capsys, "train", "--like", folder, "--out", tmp_path / "out")
        assert "no prior 'os.system'" in line
        config["experiment"] = {"code": {}}
        (folder / "config.json").write_text(json.dumps(config))
        line = complaint(capsys, "train", "--like", folder, "--out", tmp_path / "out")
        assert "no table 'code'" in line

    def test_a_run_from_python_records_none(self, run, tmp_path, capsys):
        pv.save(pv.load(run), tmp_path / "run")
        line = complaint(capsys, "train", "--like", tmp_path / "run", "--out", tmp_path / "out")
        assert "records no experiment" in line


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[piror]\n", "no table 'piror': did you mean prior? There are prior, likelihood"),
            ("[training]\nepoch = 3\n", "no entry 'epoch' in [training]: did you mean epochs?"),
            ("[data]\nlook = 'color'\n", "no entry 'look' in [data]: the look of sprites is --d"),
            ("[data]\nside = 64\n", "no entry 'side' in [data]: the side of sprites is --data.si"),
            ("[[prior]]\nlatents = 2\n", "prior is one table; got a list of them: write [prior]"),
            ("[training]\nepochs = 2.5\n", "--training.epochs: expected `int`, got `float`"),
            ("[training]\nepochs = 0\n", "--training.epochs: expected `int` >= 1; got 0"),
            ("[training]\ncompile = 3\n", "--training.compile: expected `bool | null`"),
            ('[training]\nkl_weight = "cosine:0:1:9"\n', "linear:START:END:EPOCHS"),
            ('[data]\nbinarization = "sometimes"\n', "--data.binarization: invalid enum value"),
            ('[data]\nname = "cifar"\n', "did you mean cifar10?"),
            ('[prior]\nname = "Vampprior"\n', "did you mean VampPrior?"),
            (
                '[prior]\nname = "MixtureOfNormals"\n',
                "MixtureOfNormals needs components: --prior.components",
            ),
            ("prior = 3\n", "a part is a name or a table; got 3"),
            ("[prior\n", "is not TOML"),
            ('[prior]\nname = "__import__"\n', "no prior '__import__'"),
        ],
    )
    def test_a_file_that_is_wrong_is_one_line(self, text, words, tmp_path, capsys):
        path = tmp_path / "wrong.toml"
        path.write_text(text)
        assert words in complaint(capsys, "train", path, "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("--piror.components 3", "--piror.components: no table 'piror': did you mean prior?"),
            ("--prior.components", "--prior.components takes a value"),
            ("--prior.components --seed 3", "--prior.components takes a value"),
            ("--prior.rank 3", "no argument 'rank': There are latents"),
            ("--prior.name.first 3", "no prior"),
            ("--net.hidden.first 3", "--net.hidden"),
            ("--training.epochs x", "--training.epochs: expected `int`, got `str`"),
            ("--objective CUBO", "CUBO needs"),
            (
                "--prior UniformSphere --guide MeanFieldNormal",
                "goes with the guide PowerSpherical",
            ),
            ("--guide PowerSpherical", "goes with the prior UniformSphere; got StandardNormal"),
            ("none.toml", "no experiment at none.toml"),
            ("--like none", "no run's folder at none"),
        ],
    )
    def test_options_that_are_wrong_are_one_line(self, options, words, tmp_path, capsys):
        argv = ["train", *options.split(), "--out", tmp_path / "run", "--latents", "3"]
        assert words in complaint(capsys, *argv)
        assert not (tmp_path / "run").exists()

    def test_two_files_are_one_too_many(self, file, tmp_path, capsys):
        argv = ["train", file, "--config", tmp_path / "b.toml", "--out", tmp_path / "run"]
        assert "two experiments were given" in complaint(capsys, *argv)

    def test_the_traceback_shows_where(self, tmp_path, capsys):
        argv = ["train", "--prior", "Cauchy", "--out", str(tmp_path / "run"), "--traceback"]
        assert main(argv) == 2
        *above, last = capsys.readouterr().err.splitlines()
        assert above[0] == "Traceback (most recent call last):"
        assert any("build.py" in line for line in above)
        assert "no prior 'Cauchy'" in last


class TestRecipes:
    SHORT = ("--epochs", "1", "--batch-size", "400")

    def trained(self, recipe: Path) -> Path:
        folder = recipe.parent / "run"
        argv = ["train", "--recipe", str(recipe), *self.SHORT, "--out", str(folder)]
        assert main(argv) == 0
        return folder

    def test_is_remembered_by_its_path_and_content(self, recipe):
        config = pv.runs.Run(self.trained(recipe)).config
        digest = hashlib.sha256(recipe.read_bytes()).hexdigest()
        assert config["recipe"] == {"path": str(recipe), "sha256": digest}
        assert config["experiment"]["prior"] == {}

    def test_a_folder_alone_executes_nothing(self, recipe, capsys):
        folder = self.trained(recipe)
        ran = recipe.parent / "ran"
        recipe.write_text(f"open({str(ran)!r}, 'w')\n{RECIPE}")
        for command in ("evaluate", "sample", "reconstruct"):
            line = complaint(capsys, command, folder)
            assert "add --recipe with mine.py (sha256 " in line
        line = complaint(capsys, "train", "--like", folder, "--out", recipe.parent / "out")
        assert "was made by a recipe: add --recipe with mine.py (sha256 " in line
        assert not ran.exists()

    def test_another_content_is_said_and_used(self, recipe, capsys):
        folder = self.trained(recipe)
        argv = ["sample", str(folder), "-n", "4", "--recipe", str(recipe)]
        capsys.readouterr()
        assert main(argv) == 0
        assert capsys.readouterr().err == ""
        recipe.write_text(RECIPE + "\n# other\n")
        assert main(argv) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("pyrovae: warning: mine.py (sha256 ")
        assert "differs from the recipe of the run" in line

    def test_one_is_trained_again_like_the_run(self, recipe, capsys):
        folder, again = self.trained(recipe), recipe.parent / "again"
        argv = ["train", "--like", str(folder), "--recipe", str(recipe), "--out", str(again)]
        assert main([*argv, "--seed", "5"]) == 0
        assert "warning" not in capsys.readouterr().err
        recipe.write_text(RECIPE + "\n# other\n")
        assert main([*argv, "--seed", "5", "--overwrite"]) == 0
        assert "differs from the recipe of the run" in capsys.readouterr().err
        config = pv.runs.Run(again).config
        assert config["experiment"]["training"] == {"epochs": 1, "batch_size": 400, "seed": 5}


class TestRun:
    def test_a_run_is_opened_from_python(self, run):
        found = pv.runs.Run(run)
        vae = found.load_vae()
        assert isinstance(vae.prior, pv.priors.VampPrior)
        data = found.data("validation", limit=9)
        assert data.x.shape == (9, 64)
        assert not data.dynamic
        assert found.source.shape == (1, 8, 8)
        with pytest.raises(ValueError, match="has no evaluation: run `pyrovae evaluate"):
            found.evaluation()

    def test_its_evaluation_is_read(self, run):
        assert main(["evaluate", str(run), "--particles", "4", "--limit", "5"]) == 0
        saved = pv.runs.Run(run).evaluation()
        assert saved.particles == 4
        assert len(saved.quantities["ELBO"].value) == 5
        for path in run.glob("evaluation*"):
            path.unlink()

    def test_a_run_without_data_says_so(self, run, tmp_path):
        pv.save(pv.load(run), tmp_path)
        with pytest.raises(ValueError, match="records no data set"):
            pv.runs.Run(tmp_path).data()


@pytest.mark.parametrize(
    ("words", "named"), [(["--out", "x"], "--out"), (["--like", "y"], "--like")]
)
def test_a_resumed_run_has_its_own_folder_and_experiment(words, named, capsys):
    assert main(["train", "--resume", "runs/a", *words]) == 2
    complaint = capsys.readouterr().err
    assert f"in its own folder, by its own experiment; got {named} too: leave it out" in complaint


def test_a_run_is_trained_for_more_epochs(tmp_path, capsys):
    words = ["--latents", "2", "--hidden", "4", "--batch-size", "400"]
    folders = [str(tmp_path / name) for name in ("whole", "short")]
    for folder, epochs in zip(folders, ("3", "1"), strict=True):
        assert main(["train", *words, "--epochs", epochs, "--out", folder]) == 0
    assert main(["train", "--resume", folders[1], "--epochs", "3"]) == 0
    whole, short = map(pv.load, folders)
    for one, other in zip(whole.parameters(), short.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [line["epoch"] for line in pv.runs.Run(Path(folders[1])).metrics] == [1, 2, 3]


def test_a_mark_of_the_byte_order_is_no_text(tmp_path):
    """As editors of Windows write it."""
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"\xef\xbb\xbf[training]\nepochs = 3\n")
    assert experiment.read(path) == {"training": {"epochs": 3}}
