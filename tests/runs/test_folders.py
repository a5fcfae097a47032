"""A run's folder is one run, whoever is killed at what moment, and holds nobody else's files."""

import json
import os
import shutil
import subprocess
import sys

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.randomness import Steps
from pyrovae.runs import Run
from pyrovae.runs import folder as folders
from pyrovae.weights.target import keep_steps

SMALL = ["--data", "digits", "--latents", "4", "--hidden", "8"]


def small(latents=4):
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.likelihoods.Bernoulli(pv.nets.MLP(latents, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(64, 8, 2 * latents)),
    )


def test_a_folder_with_a_strangers_files_is_refused(tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    mine = tmp_path / "figures" / "mine.png"
    mine.write_text("mine")
    assert main(["train", *SMALL, "--epochs", "1", "--out", str(tmp_path)]) == 2
    assert "holds files that are no run's, such as figures" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "figures"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        folders.refuse(tmp_path / "file", overwrite=False)


def test_a_folder_is_held_by_one_process_and_let_go_when_it_dies(tmp_path):
    code = (
        "import sys, time, pathlib; from pyrovae.runs import folder as folders\n"
        "with folders.held(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    (tmp_path / ".model.safetensors.1.part").write_text("half")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".000000000010-0.safetensors.1.part").write_text("half")
    with pytest.raises(ValueError, match="another process trains into"), folders.held(tmp_path):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with folders.held(tmp_path):
        assert not (tmp_path / ".model.safetensors.1.part").exists()
        assert not list((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / folders.LOCK).exists()


@pytest.mark.parametrize("moved", range(3))
def test_a_process_that_dies_between_two_renames_leaves_one_run(tmp_path, monkeypatch, moved):
    """The first rename makes the state: config and metrics are read from the model until then."""
    old, new = small(4), small(6)
    config = Run(tmp_path).save(old, seed=1)
    Run(tmp_path).save_epochs(old, config, [{"epoch": 1, "loss": 2.0}])
    left, whole = [moved], type(tmp_path).replace

    def dies(path, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).save_epochs(
            new,
            {**config, "run": "new", "seed": 2, "vae": new.config},
            [
                {"epoch": 1, "loss": 3.0},
                {"epoch": 2, "loss": 2.5},
            ],
        )
    monkeypatch.undo()
    width = 4 if moved == 0 else 6
    assert pv.load(tmp_path).prior.loc.shape == (width,)
    assert Run(tmp_path).config["seed"] == (1 if moved == 0 else 2)
    losses = [line["loss"] for line in Run(tmp_path).metrics]
    assert losses == ([2.0] if moved == 0 else [3.0, 2.5])


def test_a_new_run_forgets_the_metrics_of_the_one_before(tmp_path):
    config = Run(tmp_path).save(small())
    Run(tmp_path).save_epochs(small(), config, [{"epoch": 1, "loss": 2.0}])
    pv.save(small(), tmp_path)
    assert Run(tmp_path).metrics == []


def test_an_evaluation_of_a_run_that_was_written_over_is_no_ones(tmp_path, capsys):
    data = {"name": "digits", "binarization": "dynamic", "shape": [1, 8, 8]}
    pv.save(small(), tmp_path, data=data)
    assert main(["evaluate", str(tmp_path), "--particles", "5", "--limit", "4"]) == 0
    pv.save(small(), tmp_path, data=data)
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    assert "belongs to a run that was overwritten since" in capsys.readouterr().err


def test_results_are_those_of_the_parameters_they_were_computed_from(tmp_path, capsys):
    """A training that goes on keeps the run's name; its best parameters may be the same."""
    data = {"name": "digits", "binarization": "dynamic", "shape": [1, 8, 8]}
    vae, run, given = small(), Run(tmp_path), ["--particles", "5", "--limit", "400"]
    config = run.save(vae, data=data)
    assert main(["evaluate", str(tmp_path), *given]) == 0
    assert main(["factors", str(tmp_path), "--limit", "40"]) == 0
    wanted = run.evaluation().quantities["ELBO"].mean
    held = run.assignment().held
    later = [{"epoch": 1, "loss": 2.0}]
    keep_steps(vae, Steps(0, 7))
    run.save_epochs(vae, config, later)
    assert (run.evaluation().quantities["ELBO"].mean, run.assignment().held) == (wanted, held)
    with torch.no_grad():
        next(vae.parameters()).view(-1)[0] += 1e-6
    run.save_epochs(vae, config, later)
    assert run.assignment() is None
    with pytest.raises(ValueError, match="is of earlier parameters, and the run has others: run"):
        run.evaluation()
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    assert "run `pyrovae evaluate" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), *given]) == 0
    assert run.evaluation().quantities["ELBO"].mean != wanted


def test_results_that_name_no_parameters_are_read(tmp_path):
    """Those of a version before."""
    vae, run = small(), Run(tmp_path)
    config = run.save(vae, data={"name": "digits", "shape": [1, 8, 8]})
    assert main(["evaluate", str(tmp_path), "--particles", "5", "--limit", "4"]) == 0
    path = tmp_path / "evaluation.json"
    said = json.loads(path.read_text())
    assert said.pop("parameters") == run.parameters_hash
    path.write_text(json.dumps(said))
    with torch.no_grad():
        next(vae.parameters()).zero_()
    run.save_epochs(vae, config, [])
    assert run.evaluation().said["data"] == 4


def test_a_linked_folder_of_figures_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pv.save(small(), tmp_path / "run")
    (tmp_path / "run" / "figures").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link to"):
        Run(tmp_path / "run").figure("bounds")


def test_a_place_that_a_run_names_is_not_made(tmp_path, capsys):
    data = {"name": "mnist", "root": str(tmp_path / "deep" / "down"), "binarization": "dynamic"}
    pv.save(small(), tmp_path / "run", data=data)
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "5"]) == 2
    assert "with --root" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_escape_sequences_of_a_config_do_not_reach_the_terminal(tmp_path, capsys):
    pv.save(small(), tmp_path, data={"name": "\x1b[31mred", "binarization": "none"})
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_model_that_is_nan_is_said_in_one_line(tmp_path, capsys):
    vae = small()
    with torch.no_grad():
        vae.likelihood.net.layers[0].weight.fill_(torch.nan)
    pv.save(vae, tmp_path, data={"name": "digits", "binarization": "dynamic"})
    for command in ("evaluate", "sample", "reconstruct"):
        assert main([command, str(tmp_path)]) == 2
        assert "is NaN in 1 tensors, the first 'likelihood.net" in capsys.readouterr().err


RECIPES = {
    "a prior without a return": (
        "import pyro, pyro.distributions as dist, pyrovae as pv\n"
        "def prior():\n    pyro.sample('z', dist.Normal(0.0, 1.0).expand([4]).to_event(1))\n"
        "def vae(shape):\n    net = pv.nets.MLP(4, 8, 64)\n"
        "    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 8, 8))\n"
        "    return pv.VAE(prior, pv.likelihoods.Bernoulli(net), guide)\n",
        "the prior returned None",
    ),
    "an exception of its own base": (
        "class Stop(BaseException): pass\ndef vae(shape):\n    raise Stop('no')\n",
        "line 3: Stop: no",
    ),
    "a null byte": ("def vae(shape):\n    return 1\n\0", "null byte"),
}


@pytest.mark.parametrize(("text", "wanted"), RECIPES.values(), ids=RECIPES.keys())
def test_a_recipe_that_cannot_be_is_one_line(tmp_path, capsys, text, wanted):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(text)
    out = str(tmp_path / "run")
    assert main(["train", "--recipe", str(recipe), "--epochs", "1", "--out", out]) == 2
    said = capsys.readouterr().err
    assert wanted in said
    assert said.count("\n") == 1


SIZES = [99_999_999_999_999, int("9" * 4000), -(10**15)]


@pytest.mark.parametrize("size", SIZES, ids=["many", "digits", "negative"])
def test_sizes_that_cannot_be_are_refused_before_anything_is_built(tmp_path, size):
    pv.save(small(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["vae"]["prior"]["args"] = [size]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot rebuild the prior .* it records the size"):
        pv.load(tmp_path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = {"name": "digits", "root": None, "binarization": "dynamic", "shape": [1, 8, 8]}
    config = Run(folder).save(small(), data=data, seed=0)
    line = {"epoch": 1, "loss": 3.0, "elbo": -3.0, "rate": 1.0, "distortion": 2.0}
    line |= {f"validation_{name}": None for name in ("elbo", "rate", "distortion")}
    line |= {"kl_weight": 1.0, "seconds": 0.1}
    Run(folder).save_epochs(small(), config, [line])
    assert main(["evaluate", str(folder), "--particles", "5", "--limit", "4"]) == 0
    return folder


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(tree, path=()):
    yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*path, key))


def put(tree, path, value):
    if not path:
        return value
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


def removed(tree, path):
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return tree


FILES = [
    "config.json",
    "evaluation.json",
    "evaluation.safetensors",
    "metrics.jsonl",
    "model.safetensors",
]
COMMANDS = ("report", "compare", "sample", "report")


def damaged(content, name, draw):
    """Return what a file holds after one mutation; None where it is gone."""
    kinds = ["byte", "cut", "gone"]
    if not name.endswith("safetensors"):
        kinds += ["value"] * 6 + ["key"] * 2
    kind = draw(st.sampled_from(kinds))
    if kind in ("value", "key"):
        tree = json.loads(content)
        path = draw(st.sampled_from(list(places(tree))))
        if kind == "key" and path:
            return json.dumps(removed(tree, path)).encode() + b"\n"
        return json.dumps(put(tree, path, draw(VALUES))).encode() + b"\n"
    if kind == "gone":
        return None
    at = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:at]
    return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]


@hypothesis.settings(
    max_examples=int(os.environ.get("MUTATIONS", "60")),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_a_damaged_file_is_one_line_or_loads(evaluated, tmp_path_factory, capsys, data):
    """Each file of a run: a value, a key or a byte another, cut short, or gone."""
    folder = tmp_path_factory.mktemp("mutant") / "run"
    shutil.copytree(evaluated, folder)
    name = data.draw(st.sampled_from(FILES))
    content = damaged((folder / name).read_bytes(), name, data.draw)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    command = data.draw(st.sampled_from(COMMANDS))
    others = [str(evaluated)] if command == "compare" else []
    capsys.readouterr()
    code = main([command, *others, str(folder)])
    said = capsys.readouterr()
    assert code in (0, 1, 2)
    assert all(len(line) <= 500 for line in (said.err + said.out).splitlines())
    assert (code == 0) == (said.err == "")
