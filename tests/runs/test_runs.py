"""A run's folder gives back the very VAE, and a damaged one says what is wrong with it."""

import errno
import functools
import json
import os
import pickle
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file, save_file

import pyrovae as pv
from pyrovae.nets import MLP, ConvDecoder, ConvEncoder, positive

WIDTH = 6
LATENTS = 2


def library_vae() -> pv.VAE:
    return pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.Bernoulli(MLP(LATENTS, 5, WIDTH, activation=torch.nn.Tanh)),
        pv.guides.MeanFieldNormal(MLP(WIDTH, 5, 2 * LATENTS)),
    )


def full_rank_vae() -> pv.VAE:
    return pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.Normal(MLP(LATENTS, 5, WIDTH), scale="learned"),
        pv.guides.FullRankNormal(MLP(WIDTH, 5, pv.guides.FullRankNormal.width(LATENTS))),
    )


def convolutional_vae() -> pv.VAE:
    return pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.Laplace(ConvDecoder(LATENTS, (1, 28, 28), channels=2), scale=0.1),
        pv.guides.MeanFieldNormal(ConvEncoder((1, 28, 28), 2 * LATENTS, channels=2)),
    )


def double_vae() -> pv.VAE:
    return full_rank_vae().double()


class Shifted(pv.parts.Part):
    """A prior of the user's own that derives from Part."""

    def __init__(self, shift: float, *, latents: int) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.full((latents,), shift))

    def forward(self) -> torch.Tensor:
        return pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


def custom_part_vae() -> pv.VAE:
    vae = library_vae()
    return pv.VAE(Shifted(0.3, latents=LATENTS), vae.likelihood, vae.posterior)


def function_prior() -> torch.Tensor:
    return pyro.sample("z", dist.StudentT(5.0, torch.zeros(LATENTS), 1.0).to_event(1))


class Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(LATENTS, 5, WIDTH)

    def forward(self, z: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        return pyro.sample("x", dist.Poisson(positive(self.net(z))).to_event(1), obs=x)


class PosteriorsMixture(torch.nn.Module):
    """A prior around learned pseudo-data, encoded by the guide's own network."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.pseudo = torch.nn.Parameter(torch.rand(3, WIDTH))

    def forward(self) -> torch.Tensor:
        loc, raw = self.net(self.pseudo).mean(0).chunk(2, dim=-1)
        return pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))


def data_for(vae: pv.VAE) -> torch.Tensor:
    width = vae.sample(1).shape[-1]
    dtype = next(vae.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, width, generator=generator).round().to(dtype)


def assert_same(vae: pv.VAE, again: pv.VAE) -> None:
    ours, theirs = vae.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype, name
        assert torch.equal(theirs[name], tensor), name
    x = data_for(vae)
    with torch.no_grad():
        weights = []
        for each in (vae, again):
            with pv.seeded(3):
                weights.append(pv.log_weights(each, x, particles=7))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "make", [library_vae, full_rank_vae, convolutional_vae, double_vae, custom_part_vae]
)
def test_the_vae_comes_back_bit_for_bit(make, tmp_path):
    vae = make()
    pv.save(vae, tmp_path / "run", seed=4, data={"name": "none"})
    again = pv.load(tmp_path / "run")
    assert_same(vae, again)
    assert again.config == vae.config
    config = pv.runs.Run(tmp_path / "run").config
    assert config["seed"] == 4
    assert config["data"] == {"name": "none"}
    assert config["versions"]["pyrovae"] == pv.__version__


def test_programs_of_your_own_are_passed_in(tmp_path):
    guide = pv.guides.MeanFieldNormal(MLP(WIDTH, 5, 2 * LATENTS))
    vae = pv.VAE(function_prior, Counts(), guide)
    pv.save(vae, tmp_path)
    assert_same(vae, pv.load(tmp_path, prior=function_prior, likelihood=Counts()))
    with pytest.raises(ValueError, match=r"rebuild the prior .*'function_prior'.*prior=\.\.\."):
        pv.load(tmp_path)
    with pytest.raises(ValueError, match=r"rebuild the likelihood .*'Counts'.*likelihood="):
        pv.load(tmp_path, prior=function_prior)


def test_a_network_that_guide_and_prior_share_is_written_once_and_stays_shared(tmp_path):
    def make() -> pv.VAE:
        net = MLP(WIDTH, 5, 2 * LATENTS)
        likelihood = pv.likelihoods.Bernoulli(MLP(LATENTS, 5, WIDTH))
        return pv.VAE(PosteriorsMixture(net), likelihood, pv.guides.MeanFieldNormal(net))

    vae, blank = make(), make()
    pv.save(vae, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(
        parameter.numel() for parameter in vae.parameters()
    ) + sum(buffer.numel() for buffer in vae.buffers())
    again = pv.load(
        tmp_path, prior=blank.prior, likelihood=blank.likelihood, guide=blank.posterior
    )
    assert_same(vae, again)
    assert again.prior.net is again.posterior.net


def test_a_tied_weight_inside_one_network_stays_tied(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(WIDTH, WIDTH)
            self.again = torch.nn.Linear(WIDTH, WIDTH)
            self.again.weight = self.inner.weight
            self.last = torch.nn.Linear(WIDTH, 2 * LATENTS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.again(self.inner(x).tanh()).tanh())

    vae = library_vae()
    vae = pv.VAE(vae.prior, vae.likelihood, pv.guides.MeanFieldNormal(Tied()))
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path, guide=pv.guides.MeanFieldNormal(Tied()))
    assert_same(vae, again)
    assert again.posterior.net.again.weight is again.posterior.net.inner.weight


def test_a_loaded_vae_trains_on(tmp_path):
    vae = library_vae()
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path)
    pv.fit(again, data_for(vae), epochs=1, callbacks=[])
    moved = [
        name
        for name, tensor in again.named_parameters()
        if not torch.equal(tensor, vae.state_dict()[name])
    ]
    assert moved == [name for name, _ in vae.named_parameters()]


# Damaged folders.


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    pv.save(library_vae(), folder)
    return folder


def complaint(folder: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        pv.load(folder)
    return str(caught.value)


def test_a_missing_folder(tmp_path):
    assert "no run's folder at" in complaint(tmp_path / "nowhere")


def test_a_folder_without_a_config(tmp_path):
    assert "no config.json" in complaint(tmp_path)


def test_a_folder_without_a_model(run):
    (run / "model.safetensors").unlink()
    assert "half-written: it has no model.safetensors" in complaint(run)


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, -3])
def test_a_truncated_config(run, kept):
    whole = (run / "config.json").read_bytes()
    cut = int(kept * len(whole)) if isinstance(kept, float) else kept
    (run / "config.json").write_bytes(whole[:cut])
    assert "config.json is half-written or damaged" in complaint(run)


@pytest.mark.parametrize("content", ["[]", '"a"', "3", "{}", '{"format": 2}'])
def test_a_config_of_another_format(run, content):
    (run / "config.json").write_text(content)
    assert "reads format 1" in complaint(run)


@pytest.mark.parametrize("vae", [{}, {"prior": None, "guide": None}])
def test_a_config_that_records_no_part(run, vae):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "vae": vae}))
    assert "is damaged: it records no" in complaint(run)


@pytest.mark.parametrize("kept", [0, 4, 8, 20, 200, 0.5, 0.9, -1])
def test_a_truncated_model(run, kept):
    whole = (run / "model.safetensors").read_bytes()
    cut = int(kept * len(whole)) if isinstance(kept, float) else kept
    (run / "model.safetensors").write_bytes(whole[:cut])
    assert "model.safetensors is half-written or damaged" in complaint(run)


class _Payload:
    def __reduce__(self):
        return (os.mkdir, (self.target,))

    def __init__(self, target: str) -> None:
        self.target = target


@pytest.mark.parametrize("write", [pickle.dumps, "torch.save"])
def test_a_pickle_is_refused_and_never_run(run, tmp_path, write):
    payload = _Payload(str(tmp_path / "the payload ran"))
    if write == "torch.save":
        torch.save(payload, run / "model.safetensors")
    else:
        (run / "model.safetensors").write_bytes(write(payload))
    assert "model.safetensors is half-written or damaged" in complaint(run)
    assert not (tmp_path / "the payload ran").exists()


def test_a_tensor_of_the_wrong_shape(run):
    path = run / "model.safetensors"
    tensors = load_file(path)
    name = "likelihood.net.layers.0.weight"
    save_file(tensors | {name: tensors[name].T.contiguous()}, path)
    assert f"'{name}' has shape (2, 5); the VAE wants (5, 2)" in complaint(run)


def test_missing_and_extra_tensors(run):
    path = run / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"stray": torch.zeros(1)}, path)
    assert "has besides the tensors ['stray']" in complaint(run)
    del tensors["prior.loc"]
    save_file(tensors, path)
    assert "lacks the tensors ['prior.loc']" in complaint(run)


def test_parts_with_a_spectral_norm_are_named_and_loaded_when_they_are_passed(tmp_path):
    def made():
        vae = pv.mlp_vae(6, latents=2, hidden=4)
        torch.nn.utils.parametrizations.spectral_norm(vae.likelihood.net.layers[0])
        return vae

    vae, x = made(), torch.eye(6)
    pv.fit(vae, x, epochs=2, step=pv.Step(compile=False), callbacks=[])
    pv.save(vae, tmp_path)
    wanted = r"of \['likelihood.net.layers.0'\], which a part's record lacks: build .* likelihood="
    with pytest.raises(ValueError, match=wanted):
        pv.load(tmp_path)
    again = pv.load(tmp_path, likelihood=made().likelihood)
    z = torch.randn(3, 2)
    assert torch.equal(again.eval().decode(z).mean, vae.eval().decode(z).mean)


@pytest.mark.parametrize(
    "record",
    [
        {"part": "os.system", "args": ["true"], "kwargs": {}},
        {"part": "pyrovae.nets.MLP", "args": [0], "kwargs": {}},
        {"part": "pyrovae.nets.MLP"},
        {"torch.nn": "functional"},
    ],
)
def test_a_config_can_make_nothing_but_parts(run, record):
    config = json.loads((run / "config.json").read_text())
    config["vae"]["likelihood"] = record
    (run / "config.json").write_text(json.dumps(config))
    assert "cannot rebuild the likelihood" in complaint(run)


# Full disks.


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FillsUp:
    """A file that takes half of what it is given."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        _full()


def _open_that_fills_up(path: Path, *args, whole=Path.open, **kwargs):
    file = whole(path, *args, **kwargs)
    return _FillsUp(file) if "w" in file.mode else file


def break_disk(patch: pytest.MonkeyPatch, how: str) -> None:
    if how == "sync":
        patch.setattr(os, "fsync", _full)
    elif how == "second file":
        synced = [os.fsync, _full]
        patch.setattr(os, "fsync", lambda file: synced.pop(0)(file) if synced else _full())
    else:
        patch.setattr(Path, "open", functools.partialmethod(_open_that_fills_up))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["sync", "write", "second file"])
def test_a_full_disk_leaves_the_last_good_run(run, monkeypatch, how):
    before = contents(run)
    with monkeypatch.context() as patch:
        break_disk(patch, how)
        with pytest.raises(OSError, match=r"cannot write .*No space left.*is kept") as caught:
            pv.save(library_vae(), run)
    assert caught.value.errno == errno.ENOSPC
    assert contents(run) == before
    pv.load(run)


@pytest.mark.parametrize("how", ["sync", "write", "second file"])
def test_a_full_disk_leaves_the_last_good_report(tmp_path, monkeypatch, how):
    path = tmp_path / "evaluation.json"
    vae, x = library_vae(), torch.zeros(5, WIDTH)
    old, new = (pv.evaluate(vae, x, particles=20, seed=seed) for seed in (1, 2))
    old.save(path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        break_disk(patch, how)
        with pytest.raises(OSError, match=r"cannot write .*No space left.*is kept"):
            new.save(path)
    assert contents(tmp_path) == before
    assert pv.read_report(path).seed == 1


@pytest.mark.parametrize("how", ["sync", "write", "second file"])
def test_a_full_disk_at_the_first_save_leaves_nothing(tmp_path, monkeypatch, how):
    with monkeypatch.context() as patch:
        break_disk(patch, how)
        with pytest.raises(OSError, match="no file existed before"):
            pv.save(library_vae(), tmp_path / "run")
    assert contents(tmp_path) == {}


class _FillDisk(pv.Callback):
    """Fill the disk after an epoch, and remember what it held."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, how: str) -> None:
        self.folder, self.patch, self.how = folder, patch, how

    def finished_epoch(self, training) -> None:
        if len(training.history.epochs) == 2:
            self.before = contents(self.folder)
            break_disk(self.patch, self.how)


@pytest.mark.parametrize("how", ["sync", "write"])
def test_a_full_disk_during_training_leaves_the_last_checkpoint(tmp_path, monkeypatch, how):
    vae = library_vae()
    with monkeypatch.context() as patch:
        fill = _FillDisk(tmp_path, patch, how)
        with pytest.raises(OSError, match=r"cannot write .*model.safetensors.*is kept"):
            pv.fit(
                vae,
                data_for(vae),
                epochs=4,
                callbacks=[fill, pv.Checkpoint(tmp_path, seed=0)],
            )
    assert contents(tmp_path) == fill.before
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    pv.load(tmp_path)


def test_a_folder_that_cannot_be_made_is_met_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    vae = library_vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.raises(OSError, match="file"):
        pv.fit(vae, data_for(vae), epochs=1, callbacks=[pv.Checkpoint(tmp_path / "file" / "run")])
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


def test_checkpoints_hold_what_the_training_ends_with(tmp_path):
    vae = library_vae()
    history = pv.fit(vae, data_for(vae), epochs=3, callbacks=[pv.Checkpoint(tmp_path, note="a")])
    assert_same(vae, pv.load(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.lines()
    assert lines[0]["validation_elbo"] is None
    assert pv.runs.Run(tmp_path).config["note"] == "a"


REFUSED = {
    "seed": ("seven", "Expected `int | null`, got `str`"),
    "experiment": ("first", "Expected `object | null`, got `str`"),
    "command": ("python x.py", "Expected `array | null`, got `str`"),
    "recipe": ("r.py", "Expected `object | null`, got `str`"),
    "created": ("today", "Invalid RFC3339 encoded datetime"),
    "versions": ({"mine": 1}, "Expected `str`, got `int`"),
    "demo": ("yes", "Expected `bool | null`, got `str`"),
    "data": ("my.csv", "Expected `object`, got `str`"),
    "format": ("v2", "it writes this entry itself: choose another name"),
    "run": ("exp-1", "it writes this entry itself: choose another name"),
    "vae": (None, "it writes this entry itself: choose another name"),
    "place": (Path("a"), "is not JSON serializable; give a JSON value"),
}


@pytest.mark.parametrize(("name", "value", "said"), [(k, *v) for k, v in REFUSED.items()])
def test_details_that_would_make_a_run_unreadable_are_refused(name, value, said, tmp_path):
    details = {"note": "a", name: value}
    said = f"cannot record {name}=.*{re.escape(said)}"
    with pytest.raises(ValueError, match=said):
        pv.runs.Run(tmp_path / "run").save(library_vae(), **details)
    with pytest.raises(ValueError, match=said):
        pv.Checkpoint(tmp_path / "run", **details)
    assert not (tmp_path / "run").exists()


def test_details_come_back(tmp_path):
    details = {"seed": 7, "data": {"name": "none"}, "demo": True, "best": [1, None, {"a": "b"}]}
    config = pv.save(library_vae(), tmp_path, **details).config
    assert {name: config[name] for name in details} == details
    pv.load(tmp_path)


def test_a_pair_of_programs_is_no_run(tmp_path):
    vae = library_vae()
    with pytest.raises(ValueError, match=r"a run holds a VAE.*got tuple: compose one"):
        pv.save((vae.model, vae.guide), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_a_path_or_its_name(tmp_path):
    """As of `save` and `load`."""
    run = pv.save(pv.mlp_vae(4, latents=2, hidden=3), str(tmp_path / "run"), seed=5)
    assert pv.runs.Run(str(tmp_path / "run")) == run
    assert pv.runs.Run(str(tmp_path / "run")).config["seed"] == 5
