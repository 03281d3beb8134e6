"""Learning rates by depth."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from thalweg.optimizer.depths import layer_depths
from thalweg.optimizer.groups.params import Param


class LayerDecay:
    """Rates by depth; of a tensor one for each depth, so that groups which are alike are one."""

    def __init__(self, layer_decay: float | None, deepest: int) -> None:
        self.layer_decay = layer_decay
        self.deepest = deepest
        self.tensors: dict[tuple[int, int], Tensor] = {}

    def of(self, lr: Any, depth: int, name: str) -> Any:
        """Return the rate of a parameter at a depth, where `lr` is that of the deepest ones."""
        if lr is None:
            raise ValueError(f"layer_decay needs an lr to multiply: pass lr=, or one in the rule of {name!r}")
        assert self.layer_decay is not None
        scale = float(self.layer_decay) ** (self.deepest - depth)
        if not isinstance(lr, Tensor):
            return lr * scale
        return lr if scale == 1 else self.tensors.setdefault((id(lr), depth), lr * scale)


def depths_of(
    model: nn.Module, params: list[Param], layer_decay: Any, depth: Callable[[str], int] | None
) -> dict[str, int]:
    """Return the depth of each parameter, frozen or not: what is trained does not change where it lies."""
    if layer_decay is None:
        if depth is not None:
            raise ValueError("depth has no effect without layer_decay")
        return {}
    is_number = isinstance(layer_decay, (int, float)) and not isinstance(layer_decay, bool)
    if not is_number or not 0 < layer_decay <= 1:
        error = ValueError if is_number else TypeError
        raise error(f"layer_decay must be a number in (0, 1], not {layer_decay!r}")
    if depth is None:
        found = layer_depths(model)
        if not found:
            raise ValueError(
                "layer_decay finds no layers: the model has no Sequential and no ModuleList with parameters; "
                "depth= can say how deep each parameter lies, by its name"
            )
        return found
    return {param.name: _checked_depth(depth(param.name), param.name) for param in params}


def _checked_depth(depth: Any, name: str) -> int:
    if not isinstance(depth, Integral) or isinstance(depth, bool) or depth < 0:
        raise ValueError(f"depth({name!r}) must be an int of at least 0, not {depth!r}")
    return int(depth)
