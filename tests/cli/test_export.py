"""`pyrovae export`: encoders and decoders as programs that other programs run, held to torch."""

import io
import sys
import zipfile

import numpy as np
import pytest
import torch
from complaints import complaint

import pyrovae as pv
from pyrovae import guides, parts
from pyrovae.cli import main
from pyrovae.cli.export import NotExportable, programs
from pyrovae.nets import MLP, ConvDecoder, ConvEncoder

X = torch.rand(6, 64, generator=torch.Generator().manual_seed(0)).round()
LABELS = torch.eye(2)[[0, 1, 1, 0, 0, 1]]


class First(parts.Part):
    """Take the first input alone, as an encoder of images that is given a label too."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, *context):
        return self.net(x)


def of_images():
    """Convolutions, a context and a likelihood with a scale for each pixel."""
    likelihood = pv.likelihoods.Normal(ConvDecoder(2 + 2, (2, 8, 8), channels=4), scale="network")
    guide = guides.MeanFieldNormal(First(ConvEncoder((1, 8, 8), 4, channels=4)))
    return pv.VAE(pv.priors.ConditionalNormal(MLP(2, 2 * 2)), likelihood, guide)


def of_a_mixture():
    net = MLP(64, 8, guides.MixtureOfNormals.width(2, 3))
    guide = guides.MixtureOfNormals(net, components=3, component="marginal")
    likelihood = pv.likelihoods.Poisson(MLP(2, 8, 64))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


def flat():
    return pv.mlp_vae(64, latents=2, hidden=16)


MADE = {
    "perceptrons": (flat, ()),
    "mixture": (of_a_mixture, ()),
    "context": (of_images, (LABELS,)),
}


def read(program):
    return torch.export.load(io.BytesIO(program.content)).module()


@pytest.mark.parametrize(("make", "context"), MADE.values(), ids=MADE.keys())
def test_programs_give_the_numbers_of_torch_at_new_data_of_any_number(make, context):
    with pv.seeded(0):
        vae = make()
    found, missing = programs(vae, X, *context)
    assert not missing
    encoder, decoder = read(found["encoder.pt2"]), read(found["decoder.pt2"])
    with torch.no_grad():
        for n in (1, 3, 11):
            x, z = torch.rand(n, 64).round(), torch.randn(n, 2)
            beside = tuple(value[torch.randint(6, (n,))] for value in context)
            q, p = vae.encode(x, *beside), vae.decode(z, *beside)
            wanted = (q.mean, q.stddev)
            torch.testing.assert_close(encoder(x, *beside), wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(decoder(z, *beside)[0], p.mean, rtol=1e-5, atol=1e-5)
    assert found["encoder.pt2"].outputs == ("mean", "standard_deviation")
    assert found["decoder.pt2"].inputs == ("z", *(["context_0"] if context else []))


def test_a_file_holds_neither_a_pickle_nor_the_data():
    found, _ = programs(flat(), X)
    for program in found.values():
        archive = zipfile.ZipFile(io.BytesIO(program.content))
        contents = {name: archive.read(name) for name in archive.namelist()}
        assert len(contents) > 5
        pickles = [name for name, content in contents.items() if content[:1] in (b"\x80", b"P")]
        pickles += [name for name in contents if name.endswith(".pkl")]
        assert not pickles
        assert not any(X[0].numpy().tobytes() in content for content in contents.values())


def hierarchy():
    prior = pv.priors.Hierarchical(
        pv.priors.StandardNormal(1), pv.priors.ConditionalNormal(MLP(1, 2 * 2))
    )
    normal = guides.MeanFieldNormal
    guide = guides.Hierarchical(normal(MLP(64, 2 * 2)), normal(MLP(2, 2)))
    return pv.VAE(prior, pv.likelihoods.Bernoulli(MLP(2, 64)), guide)


def of_a_flow():
    guide = guides.Flow(MLP(64, 4), 2, features=4, transforms=1, hidden=4)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(MLP(2, 64)), guide)


MISSING = {
    "levels": (hierarchy, "a guide of class Hierarchical has no network from x to one posterior"),
    "flow": (of_a_flow, "q.z | x. is a FlowDistribution, which has no mean in closed form"),
}


@pytest.mark.parametrize(("make", "why"), MISSING.values(), ids=MISSING.keys())
def test_what_cannot_be_exported_is_said_and_the_other_part_is_there(make, why):
    vae = make()
    found, missing = programs(vae, X)
    assert list(found) == ["decoder.pt2"]
    assert list(missing) == ["encoder"]
    with pytest.raises(NotExportable, match=why):
        raise NotExportable(missing["encoder"])
    z = torch.randn(3, 2)
    torch.testing.assert_close(read(found["decoder.pt2"])(z)[0], vae.decode(z).mean)


class Drifting(parts.Part):
    """A network whose output moves at each call, so that a record of it is soon another."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, *inputs):
        self.calls += 1
        return self.net(*inputs) + 0.01 * self.calls


def test_a_program_that_is_not_torch_s_is_refused_with_how_far_off_it_is():
    vae = flat()
    vae.posterior.net = Drifting(vae.posterior.net)
    with pytest.raises(ValueError, match=r"torch.export differs from torch by \d\.\de-0[123] of"):
        programs(vae, X)


def test_data_without_two_rows_are_refused():
    with pytest.raises(ValueError, match=r"a row for each datum, two or more; got \(1, 64\)"):
        programs(flat(), X[:1])


def saved(folder, vae):
    pv.save(vae, folder, data={"name": "digits", "shape": [1, 8, 8], "binarization": "static"})
    return folder


def test_the_command_writes_programs_and_onnx_runs_them_on_any_number(tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime")
    vae, folder = of_a_flow(), tmp_path / "programs"
    run = saved(tmp_path / "run", vae)
    assert main(["export", str(run), "--onnx", "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "decoder.onnx: z -> mean, within" in printed
    assert "not written: the encoder: q(z | x) is a FlowDistribution" in printed
    assert {path.name for path in folder.iterdir()} == {"decoder.pt2", "decoder.onnx"}
    content = (folder / "decoder.onnx").read_bytes()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for n in (1, 5):
        z = torch.randn(n, 2)
        (mean,) = session.run(None, {"z": z.numpy()})
        np.testing.assert_allclose(mean, vae.decode(z).mean.detach(), rtol=0, atol=1e-5)


def test_without_the_packages_of_onnx_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    folder = saved(tmp_path / "run", flat())
    line = complaint(capsys, "export", folder, "--onnx")
    assert "ONNX needs onnxruntime, which is not installed: pip install 'pyrovae[onnx]'" in line
    assert not (folder / "export").exists()


def test_a_mean_that_is_drawn_anew_at_each_call_is_left_out_in_words():
    """The pixels of a PixelCNN have no mean in closed form: a draw stands for it."""
    pixels = pv.nets.PixelCNN((1, 1, 2), 2, channels=4, blocks=1)
    one_by_one = pv.likelihoods.AutoregressiveBernoulli(MLP(2, 2 * 2), pixels)
    guide = guides.MeanFieldNormal(MLP(2, 2 * 2))
    found, missing = programs(pv.VAE(pv.priors.StandardNormal(2), one_by_one, guide), X[:, :2])
    assert list(found) == ["encoder.pt2"]
    assert "whose mean is estimated from draws" in missing["decoder"]
