"""What a recorded graph must not leave to the CPU, or take from it, beside a GPU."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.graphs.passes import check_written, cpu_work_of, gpu_among
from pyrovae.graphs.signatures import NotRecordable
from pyrovae.measure.latents.plane import _Components
from pyrovae.weights.sites import same_mask
from pyrovae.weights.target import placed


class Lying:
    """What is asked of a tensor's place, for tensors that no CPU can have."""

    def __init__(self, device):
        self.device, self.is_cuda = torch.device(device), device != "cpu"


def test_a_graph_runs_on_one_gpu():
    assert gpu_among([Lying("cpu"), Lying("cuda:0")]) == torch.device("cuda:0")
    assert gpu_among([Lying("cpu")]) is None
    with pytest.raises(NotRecordable, match=r"several GPUs: \['cuda:0', 'cuda:1'\]"):
        gpu_among([Lying("cuda:0"), Lying("cuda:1")])


def test_a_tensor_of_the_cpu_that_the_step_changes_is_refused_beside_a_gpu():
    """The GPU would be given a copy, and what the step counts in it would be lost."""
    graph = make_fx(lambda x, count: x * count.add_(1))(torch.ones(2), torch.ones(()))
    check_written(graph, [Lying("cuda:0"), Lying("cuda:0")])
    with pytest.raises(NotRecordable, match=r"changes a tensor of the CPU.*aten.add_"):
        check_written(graph, [Lying("cuda:0"), Lying("cpu")])
    reading = make_fx(lambda x, weight: x.mul_(weight))(torch.ones(2), torch.ones(()))
    check_written(reading, [Lying("cuda:0"), Lying("cpu")])


CPU_WORK = {
    "a draw": (lambda x: x * torch.randn(()), "aten.randn.default"),
    "rows drawn": (lambda x: x[torch.randperm(4)[:2]], "aten.randperm.default"),
    "what the GPU found": (lambda x: x.cpu().exp().sum(), "aten._to_copy.default"),
    "constants": (lambda x: x * torch.ones(4).sum(), ""),
    "a draw of the GPU": (lambda x: x * torch.randn(4, device=x.device), ""),
}


@pytest.mark.parametrize(("function", "named"), CPU_WORK.values(), ids=CPU_WORK.keys())
def test_work_of_the_cpu_beside_a_gpu_is_named(function, named):
    """A CUDA graph repeats kernels: a number that the CPU drew would stay as it was."""
    with FakeTensorMode() as without_values:
        x = torch.empty(4, device="cuda:0")
    with without_values:
        graph = make_fx(function, tracing_mode="fake")(x)
    assert cpu_work_of(graph, [x]) == named


@pytest.mark.parametrize("smoothed", [True, False])
def test_the_density_over_two_dimensions_of_a_gpu_is_kept_by_the_cpu(monkeypatch, smoothed):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    with FakeTensorMode():
        draws, grid = torch.empty(7, 2, device="cuda:0"), torch.zeros(2, 5, dtype=torch.float64)
        factor = torch.distributions.Normal(torch.zeros(1, 7, 3, device="cuda:0"), 1.0)
        density = _Components(draws, [] if smoothed else [factor], [0, 2]).density(grid)
    assert density.device.type == "cpu"
    assert density.shape == (5, 5)


@pytest.mark.parametrize("masks", [(None, "gpu"), ("gpu", None), (True, "gpu"), ("gpu", "copy")])
def test_masks_are_compared_where_one_of_them_is(monkeypatch, masks):
    met = []
    monkeypatch.setattr(torch, "equal", lambda *pair: met.append([t.device.type for t in pair]))
    gpu = torch.ones(3, dtype=torch.bool, device="meta")
    there = {"gpu": gpu, "copy": gpu.clone()}
    same_mask(*(there.get(mask, mask) for mask in masks))
    assert met == [["meta", "meta"]]


def test_novel_data_are_moved_to_the_target():
    target = torch.nn.Linear(2, 2, device="meta")
    novel, label = torch.ones(3, 2), torch.ones(3)
    assert all(value.is_meta for value in placed(target, novel, label))
