r"""Compute the layers of networks in a lower precision, and everything else in full.

    layer(x) = (x_16 W_16) + b        x and W rounded to 16 bits, the sum in the dtype of x

Linear layers and convolutions do nearly all of a step's arithmetic. They round their inputs and
weights, forward and backward, and return the dtype of their inputs. Activations, parameters of
distributions, draws, log-probabilities, gradients of parameters and the optimizer keep full
precision, wherever a network ends, and also in networks of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["PRECISIONS", "layers_in"]

PRECISIONS: Final = {"bf16": torch.bfloat16}
"""The lower precisions of layers, by name."""

_CONVOLUTIONS: Final = (
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
)

_LAYERS: Final = (torch.nn.functional.linear, *_CONVOLUTIONS)


class layers_in(Messenger):  # noqa: N801  (handlers are lower-case, as Pyro's own are)
    """Run the layers that a program calls in a lower precision.

    Layers of `torch.nn` and of `torch.nn.functional` are affected: linear ones and convolutions.
    Products written as `x @ w`, attention and recurrent networks are not. Networks inside a
    distribution, such as those of a flow, belong to its density: they keep full precision.

    Args:
        name: of the precision, one of `PRECISIONS`.

    Raises:
        ValueError: for another name.

    References:
        Micikevicius et al., 2018. Mixed Precision Training.
        Kalamkar et al., 2019. A Study of BFLOAT16 for Deep Learning Training.

    Example:
        >>> import torch
        >>> x, layer = torch.tensor([[1.001]]), torch.nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(1.0)
        >>> layers_in("bf16")(layer)(x)  # rounded to 8 bits
        tensor([[1.]], grad_fn=<ToCopyBackward0>)
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in PRECISIONS:
            loss_scaling = (
                ": float16 would need its loss scaled, bf16 has the range of float32"
                if name in ("fp16", "float16")
                else ""
            )
            raise ValueError(
                f"precision is 'bf16', or None for that of the weights; got {name!r}{loss_scaling}"
            )
        self._layers = _Layers(PRECISIONS[name])

    def __enter__(self) -> Any:
        """Intercept the layers."""
        self._layers.paused = False  # An error may have ended a draw.
        self._layers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave the layers alone again."""
        super().__exit__(*error)
        self._layers.__exit__(*error)

    def _pyro_sample(self, msg: Any) -> None:
        # A flow that drew by other networks than those of its density would bias the bound.
        self._layers.paused = True

    def _pyro_post_sample(self, msg: Any) -> None:
        self._layers.paused = False


class _Layers(TorchFunctionMode):
    """Round the inputs and the weights of layers, and return the dtype of the inputs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.paused = dtype, False

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in _LAYERS or self.paused:
            return func(*args, **kwargs or {})
        return _rounded(func, self.dtype, *args, **kwargs or {})


def _rounded(
    layer: Callable[..., Tensor],
    dtype: torch.dtype,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Apply a layer to a rounded input and weight, and add the bias in full precision."""
    rounded = layer(input.to(dtype), weight.to(dtype), None, *args, **kwargs)
    out = rounded.to(input.dtype)
    if bias is None:
        return out
    return out + (bias if layer not in _CONVOLUTIONS else bias.view(-1, *[1] * (weight.ndim - 2)))
