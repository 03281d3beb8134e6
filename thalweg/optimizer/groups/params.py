"""The parameters of a model, each with its place in it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class Param:
    """A parameter with its place in the model.

    Args:
        name: its dotted name.
        tensor: the parameter.
        modules: those that contain it, from the model to the one that owns it; of a parametrized one
            (`torch.nn.utils.parametrize`), to the module that is parametrized.
        own_name: the last part of the name; of a parametrized one, what it was before.
    """

    name: str
    tensor: Tensor
    modules: tuple[nn.Module, ...]
    own_name: str


def params_of(model: nn.Module) -> list[Param]:
    """Return all parameters, each once, under its first name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    found = [_param(model, name, tensor) for name, tensor in model.named_parameters()]
    for param in found:
        if is_lazy(param.tensor):
            raise ValueError(
                f"parameter {param.name!r} is not initialized: run a batch through the model first, "
                "and then make its groups"
            )
    return found


def _param(model: nn.Module, name: str, tensor: Tensor) -> Param:
    *path, own_name = name.split(".")
    if "parametrizations" in path:
        place = path.index("parametrizations")
        path, own_name = path[:place], [*path, own_name][place + 1]
    modules = [model]
    for part in path:
        modules.append(getattr(modules[-1], part))
    return Param(name, tensor, tuple(modules), own_name)
