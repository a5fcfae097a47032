"""What the library uses of torch and Pyro beyond their documented interfaces, each in one test.

A release of either that changes one of these fails here, with a sentence that says what is needed
and where. Raise the upper bounds in pyproject.toml once these tests pass.
"""

import ast
import functools
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import interfaces
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LIBRARIES = ("torch", "pyro")
# Keys of the library's own in Pyro's `infer`, and a public method of named tuples.
OWN = {"_pyrovae_steps", "_reverse_density", "_training_factor", "_replace"}


@dataclass(frozen=True)
class Needed:
    what: str
    check: object
    names: tuple[str, ...]


TABLE = [
    Needed(
        "recording: fake tensors are of one class, and is_fake tells them",
        interfaces.fakes_are_known,
        ("torch._subclasses.fake_tensor.FakeTensor", "torch._subclasses.fake_tensor.is_fake"),
    ),
    Needed(
        "recording: the methods of tensors that Pyro calls lie in one file, whose frames are "
        "passed over",
        interfaces.methods_of_tensors_lie_in_one_file,
        ("torch._tensor",),
    ),
    Needed(
        "recording: make_fx records on fake tensors and keeps real ones as constants",
        interfaces.constants_are_kept,
        ("torch.fx.experimental.proxy_tensor.make_fx", "_allow_non_fake_inputs"),
    ),
    Needed(
        "arguments and results: trees have leaves and a structure that can be a key",
        interfaces.trees_are_taken_apart,
        ("torch.utils._pytree",),
    ),
    Needed(
        "signatures: torch.device(...) puts one DeviceContext on the stack of function modes",
        interfaces.a_default_device_is_a_mode,
        (
            "torch.utils._device.DeviceContext",
            "torch._C._len_torch_function_stack",
            "torch._C._get_function_stack_at",
        ),
    ),
    Needed(
        "recording, stored parameters: inside a dispatch mode, values can be had without it",
        interfaces.modes_can_be_left,
        (
            "torch.utils._python_dispatch._disable_current_modes",
            "torch._C._len_torch_dispatch_stack",
        ),
    ),
    Needed(
        "recording: a dispatch mode sees the numbers that torch itself reads from tensors",
        interfaces.modes_see_what_torch_reads,
        ("torch.utils._python_dispatch.TorchDispatchMode",),
    ),
    Needed(
        "signatures: torch tells whether a hook is on every module",
        interfaces.hooks_on_every_module_are_told,
        ("torch.nn.modules.module._has_any_global_hook",),
    ),
    Needed(
        "recording, flows: the default of validation is an attribute of Distribution itself",
        interfaces.distributions_say_whether_they_check,
        ("torch.distributions.Distribution._validate_args", "'_validate_args'"),
    ),
    Needed(
        "distributions: Distribution has what subclasses check and expand by",
        interfaces.distributions_help_those_made_of_them,
        ("._validate_args", "._validate_sample", "._extended_shape"),
    ),
    Needed(
        "flows: the inverse of a transform is of one class, which zuko replaces",
        interfaces.inverses_have_a_class,
        ("torch.distributions.transforms._InverseTransform",),
    ),
    Needed(
        "onednn: the operation takes (x, weight, bias, 'none', [], '')",
        interfaces.products_go_to_onednn,
        ("torch.ops.mkldnn._linear_pointwise", "'_linear_pointwise'"),
    ),
    Needed(
        "muon: torch's own gathers the matrices with a gradient, and their averages",
        interfaces.muon_gathers_its_state,
        ("._init_group",),
    ),
    Needed(
        "muon: torch tells whether the processor multiplies bfloat16",
        interfaces.processors_say_whether_they_multiply_bfloat16,
        ("torch.cpu._is_avx512_bf16_supported",),
    ),
    Needed(
        "optimizers: hooks of one optimizer and of all are in dicts",
        interfaces.hooks_of_optimizers_are_told,
        (
            "._optimizer_step_pre_hooks",
            "._optimizer_step_post_hooks",
            "torch.optim.optimizer._global_optimizer_pre_hooks",
            "torch.optim.optimizer._global_optimizer_post_hooks",
        ),
    ),
    Needed(
        "optimizers: a scheduler takes _opt_called for a step",
        interfaces.schedulers_ask_whether_a_step_was_taken,
        ("._opt_called",),
    ),
    Needed(
        "step graphs: hooks on a tensor's gradient are attributes of the tensor",
        interfaces.hooks_of_tensors_are_told,
        ("._backward_hooks", "._post_accumulate_grad_hooks"),
    ),
    Needed(
        "step state: a tensor counts the changes in place",
        interfaces.tensors_count_their_changes,
        ("._version",),
    ),
    Needed(
        "vae, guards: a module keeps buffers in a dict, and the names of some in its only set",
        interfaces.modules_keep_dicts,
        ("._buffers", "'_non_persistent_buffers_set'"),
    ),
    *(
        Needed(
            "guards: the attributes of a module that are its own machinery have these names",
            functools.partial(interfaces.modules_have, name),
            (f"'{name}'",),
        )
        for name in (
            "_is_full_backward_hook",
            "_state_dict_hooks",
            "_state_dict_pre_hooks",
            "_load_state_dict_pre_hooks",
            "_load_state_dict_post_hooks",
            "_backward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_hooks_always_called",
            "_forward_pre_hooks_with_kwargs",
            "_parameters",
            "_buffers",
            "_modules",
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
        )
    ),
    Needed(
        "recording: an operation's schema says which argument it writes",
        interfaces.operations_have_schemas,
        ("'_schema'",),
    ),
    Needed(
        "observed: a masked distribution keeps its mask",
        interfaces.masks_are_kept,
        ("._mask",),
    ),
    Needed(
        "vae: Pyro's local mode keeps parameters in a context, which other modules lack",
        interfaces.modules_of_pyro_have_a_context,
        ("._pyro_context",),
    ),
    Needed(
        "steps, stored parameters: Pyro's store has unconstrained leaves and their names",
        interfaces.the_store_knows_its_parameters,
        ("._params", "._param_to_name"),
    ),
    Needed(
        "optimizers: Pyro's makes one for each parameter, and keeps loaded states till then",
        interfaces.pyros_optimizers_are_made_one_by_one,
        ("._get_optim", "._get_grad_clip", "._state_waiting_to_be_consumed"),
    ),
    Needed(
        "optimizers: Pyro loads the state of one optimizer into another",
        interfaces.states_of_optimizers_are_loaded,
        ("pyro.optim.optim._load_state_dict",),
    ),
    Needed(
        "sites: pyro.deterministic marks its site",
        interfaces.deterministic_sites_are_marked,
        ("'_deterministic'",),
    ),
    Needed(
        "sites, kl, training: enumeration marks a site by its dimension",
        interfaces.enumerated_sites_are_marked,
        ("'_enumerate_dim'",),
    ),
    Needed(
        "recording: Pyro's objectives lie in pyro/infer, its warnings about NaN in pyro/util.py",
        interfaces.objectives_read_losses_in_pyros_folder,
        (),
    ),
    Needed(
        "recording: Distribution checks a local `value` beside a local `support`",
        interfaces.distributions_check_a_value_beside_its_support,
        (),
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.names[0] if row.names else row.what)
def test_what_is_needed_is_there(row):
    try:
        found = row.check()
    except Exception as error:  # an interface that is gone
        pytest.fail(f"{row.what}: {type(error).__name__}: {error}")
    assert found, row.what


def is_private(name):
    return name.startswith("_") and name.strip("_").isidentifier() and not name.startswith("__")


def aliases(tree):
    """Return what the names that a file imports stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                top = a.name.split(".")[0]
                found[a.asname or top] = a.name if a.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names})
    return found


def dotted(node, known):
    """Return the full name of an attribute of an import; "" of any other value."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id in known):
        return ""
    return ".".join([known[node.id], *reversed(names)])


def defined(trees):
    """Return the names that the package itself defines, as functions or attributes of self."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def uses(tree, own):
    """Yield the private names of torch and Pyro in a file, as the table writes them."""
    known = aliases(tree)
    for name in known.values():
        library, *parts = name.split(".")
        if library in LIBRARIES and (any(map(is_private, parts)) or "experimental" in parts):
            if name != "torch._C":
                yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            name = dotted(node, known)
            if name.split(".")[0] in LIBRARIES:
                if name != "torch._C":  # the functions of it are named
                    yield name
            elif not name and node.attr not in own:
                yield f".{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg and is_private(node.arg):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Modules of torch have attributes that the library's objects have too.
            foreign = node.value not in own or interfaces.modules_have(node.value)
            if is_private(node.value) and foreign:
                yield f"'{node.value}'"


def used():
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted((ROOT / "pyrovae").rglob("*.py"))
    }
    own, found = defined(trees.values()), defaultdict(set)
    for path, tree in trees.items():
        for name in uses(tree, own):
            if name.strip("'.") not in OWN:
                found[name].add(path)
    return found


def test_the_table_names_all_that_is_used_and_nothing_else():
    found = used()
    named = {name for row in TABLE for name in row.names}
    missing = {name: sorted(paths) for name, paths in found.items() if name not in named}
    assert not missing, f"private interfaces that the table lacks: {missing}"
    assert not named - {*found}, "the table names what is used no more"


def test_a_private_name_is_found_however_it_is_written():
    written = """
import torch
from torch import nn, distributions as td
from torch._inductor import config
from torch.fx.experimental import symbolic_shapes

td.transforms._Inverse
nn.modules.module._hook()
thing()._grad_fn
trace(f, _flag=True)
getattr(tensor, "_base")
own._mine
"""
    assert set(uses(ast.parse(written), {"_mine"})) == {
        "torch._inductor.config",
        "torch.fx.experimental.symbolic_shapes",
        "torch.distributions.transforms._Inverse",
        "torch.nn.modules.module._hook",
        "._grad_fn",
        "_flag",
        "'_base'",
    }


@pytest.mark.parametrize("library", ["torch", "pyro-ppl"])
def test_pyproject_bounds_the_library_from_above(library):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    requirement = next(r for r in map(Requirement, declared) if r.name == library)
    assert any(spec.operator == "<" for spec in requirement.specifier)
    assert requirement.specifier.contains(version(library))
