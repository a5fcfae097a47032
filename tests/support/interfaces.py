"""Checks of what torch and Pyro do that is nowhere promised: each is true where it is so."""

import inspect
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints


def traced(function, *inputs, **options):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, tracing_mode="fake", **options)(*inputs)


def fakes_are_known():
    from torch._subclasses.fake_tensor import FakeTensor, is_fake

    met = []
    traced(lambda x: met.append((isinstance(x, FakeTensor), is_fake(x))) or x + 1, torch.ones(2))
    return met == [(True, True)] and not is_fake(torch.ones(2))


def constants_are_kept():
    held = torch.ones(2)
    graph = traced(lambda x: x + held, torch.zeros(2), _allow_non_fake_inputs=True)
    kept = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    return [getattr(graph, name) is held for name in kept] == [True]


def trees_are_taken_apart():
    from torch.utils import _pytree as pytree

    leaves, structure = pytree.tree_flatten(((1, [2]), {"a": 3}))
    return (
        leaves == [1, 2, 3]
        and pytree.tree_leaves((1, [2])) == [1, 2]
        and pytree.tree_map(str, (1, [2])) == ("1", ["2"])
        and structure.num_leaves == 3
        and structure.unflatten(leaves) == pytree.tree_unflatten(leaves, structure)
        and {structure: 0}[pytree.tree_flatten(((4, [5]), {"a": 6}))[1]] == 0
    )


def a_default_device_is_a_mode():
    from torch.utils._device import DeviceContext

    before = torch._C._len_torch_function_stack()
    with torch.device("cpu"):
        found = torch._C._get_function_stack_at(before)
        return torch._C._len_torch_function_stack() == before + 1 and type(found) is DeviceContext


def modes_can_be_left():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import _disable_current_modes

    before = torch._C._len_torch_dispatch_stack()
    with FakeTensorMode():
        inside = torch._C._len_torch_dispatch_stack() == before + 1
        with _disable_current_modes():
            return inside and not isinstance(torch.ones(2), FakeTensor)


def modes_see_what_torch_reads():
    """Tell whether a mode sees an index read, by an operation whose tag says what it is."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if torch.Tag.data_dependent_output in func.tags:
                seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        _ = torch.zeros(3)[: torch.tensor(2)]
        _ = torch.full((), torch.tensor(2.0))
    return seen == [torch.ops.aten._local_scalar_dense.default] * 2


def hooks_on_every_module_are_told():
    def told():
        return bool(nn.modules.module._has_any_global_hook())

    before = told()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    during = told()
    handle.remove()
    return (before, during, told()) == (False, True, False)


def distributions_say_whether_they_check():
    kind = torch.distributions.Distribution
    before = kind._validate_args
    try:
        kind.set_default_validate_args(not before)
        return kind._validate_args is not before and "_validate_args" in vars(kind)
    finally:
        kind.set_default_validate_args(before)


def distributions_help_those_made_of_them():
    normal = torch.distributions.Normal(torch.zeros(2), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        normal._validate_sample(torch.full((2,), torch.nan))
    return normal._extended_shape(torch.Size([3])) == (3, 2) and normal._validate_args is True


def inverses_have_a_class():
    transform = torch.distributions.transforms.ExpTransform()
    kind = torch.distributions.transforms._InverseTransform
    return type(transform.inv) is kind and kind.__name__ == "_InverseTransform"


def products_go_to_onednn():
    if not torch.backends.mkldnn.is_available():
        return True
    x, weight, bias = torch.randn(4, 3), torch.randn(2, 3), torch.randn(2)
    found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.allclose(found, nn.functional.linear(x, weight, bias), atol=1e-5)


def muon_gathers_its_state():
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.grad = torch.ones(2, 3)
    made = torch.optim.Muon([parameter, nn.Parameter(torch.ones(2, 2))])
    parameters, grads, averages = [], [], []
    made._init_group(made.param_groups[0], parameters, grads, averages)
    one_each = len(parameters) == len(grads) == len(averages) == 1
    return one_each and averages[0] is made.state[parameter]["momentum_buffer"]


def processors_say_whether_they_multiply_bfloat16():
    return isinstance(torch.cpu._is_avx512_bf16_supported(), bool)


def hooks_of_optimizers_are_told():
    from torch.optim import optimizer

    made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    none = not (made._optimizer_step_pre_hooks or made._optimizer_step_post_hooks)
    pre = made.register_step_pre_hook(lambda *_: None)
    post = made.register_step_post_hook(lambda *_: None)
    own = len(made._optimizer_step_pre_hooks) == len(made._optimizer_step_post_hooks) == 1
    pre.remove(), post.remove()
    handle = optimizer.register_optimizer_step_pre_hook(lambda *_: None)
    everywhere = len(optimizer._global_optimizer_pre_hooks) == 1
    handle.remove()
    handle = optimizer.register_optimizer_step_post_hook(lambda *_: None)
    everywhere = everywhere and len(optimizer._global_optimizer_post_hooks) == 1
    handle.remove()
    return none and own and everywhere


def schedulers_ask_whether_a_step_was_taken():
    made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1)
    made._opt_called = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    return True


def hooks_of_tensors_are_told():
    parameter = nn.Parameter(torch.ones(1))
    none = not (parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
    parameter.register_hook(lambda grad: None)
    parameter.register_post_accumulate_grad_hook(lambda p: None)
    return none and bool(parameter._backward_hooks and parameter._post_accumulate_grad_hooks)


def tensors_count_their_changes():
    tensor = torch.zeros(2)
    before = tensor._version
    tensor.add_(1)
    return tensor._version == before + 1


def modules_keep_dicts():
    module = nn.BatchNorm1d(2)
    kept = vars(module)
    sets = [name for name, value in kept.items() if isinstance(value, set)]
    return module._buffers["running_mean"] is module.running_mean and sets == [
        "_non_persistent_buffers_set"
    ]


def modules_have(name):
    return name in vars(nn.Linear(1, 1))


def operations_have_schemas():
    schema = torch.ops.aten.add_.Tensor._schema
    first = schema.arguments[0]
    return first.name == "self" and first.alias_info.is_write


def masks_are_kept():
    mask = torch.tensor([True, False])
    return dist.Normal(torch.zeros(2), 1.0).mask(mask)._mask is mask


def modules_of_pyro_have_a_context():
    with pyro.settings.context(module_local_params=True):
        inside = PyroModule()
    outside = PyroModule()
    state = {"params": {}, "constraints": {}}
    return inside._pyro_context.param_state == state and not hasattr(
        outside._pyro_context, "param_state"
    )


def the_store_knows_its_parameters():
    store = pyro.get_param_store()
    constraint = constraints.positive
    pyro.param("scale", torch.ones(1), constraint=constraint)
    unconstrained = store._params["scale"]
    known = store._param_to_name[unconstrained]
    pyro.clear_param_store()
    return unconstrained.is_leaf and known == "scale"


def pyros_optimizers_are_made_one_by_one():
    optim = pyro.optim.Adam({"lr": 0.5}, {"clip_norm": 1.0})
    parameter = pyro.param("weight", torch.ones(1))
    optim.set_state({"weight": {"state": {}, "param_groups": []}})
    pyro.clear_param_store()
    made = optim._get_optim(parameter)
    return (
        list(optim._state_waiting_to_be_consumed) == ["weight"]
        and made.param_groups[0]["lr"] == 0.5
        and callable(optim._get_grad_clip(parameter))
    )


def states_of_optimizers_are_loaded():
    made, other = (torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=lr) for lr in (0.1, 0.2))
    pyro.optim.optim._load_state_dict(made, other.state_dict())
    return made.param_groups[0]["lr"] == 0.2


def deterministic_sites_are_marked():
    trace = poutine.trace(lambda: pyro.deterministic("d", torch.ones(1))).get_trace()
    return trace.nodes["d"]["infer"]["_deterministic"] is True


def enumerated_sites_are_marked():
    def model():
        pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})

    trace = poutine.trace(poutine.enum(model, first_available_dim=-2)).get_trace()
    return trace.nodes["c"]["infer"]["_enumerate_dim"] == -2


def objectives_read_losses_in_pyros_folder():
    """As the recording, which lets `.item()` pass where Pyro's own files call it."""
    home = Path(pyro.__file__).parent
    files = [Path(inspect.getfile(f)) for f in (Trace_ELBO, pyro.util.warn_if_nan)]
    return files[0].parent == home / "infer" and files[1] == home / "util.py"


def distributions_check_a_value_beside_its_support():
    """As the recording, which reads the locals of `_validate_sample`."""
    names = torch.distributions.Distribution._validate_sample.__code__.co_varnames
    return {"value", "support"} <= {*names}


def methods_of_tensors_lie_in_one_file():
    methods = (torch.Tensor.register_hook, torch.Tensor.backward)
    return all(method.__code__.co_filename == torch._tensor.__file__ for method in methods)
