"""Where a mean does for second moments, by their signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.distributed.parts import is_dtensor
from thalweg.rule import Recipe, Slot
from thalweg.stepping.slots import values_of
from thalweg.storage import choices
from thalweg.storage.codecs import MEANS

__all__ = ["second_moment_snr"]


class Owner(Protocol):
    """Whose second moments are looked at: an optimizer."""

    param_groups: list[dict[str, Any]]
    state: Any

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """Return what the steps of a group are made by."""
        ...

    def flush(self) -> None:
        """Bring all rows up to date."""
        ...


@dataclass(frozen=True)
class Signal:
    """How well a mean stands for the second moments of one parameter.

    Attributes:
        param: the parameter.
        name: its name, where the group has `param_names`, else its position in the optimizer.
        slot: the second moment's, such as `"exp_avg_sq"`.
        snr: signal-to-noise ratios by what would have one number: `"row"`, `"column"`, `"tensor"`; those
            that the optimizer could keep so. Infinite where nothing would be lost, NaN where all is zero.
        looks: the number of times that it was looked at, over which `snr` is the mean.
    """

    param: Tensor
    name: str | int
    slot: str
    snr: dict[str, float]
    looks: int = 1

    def best(self, least: float = 1.0) -> str | None:
        """Return what `state=` should say of the slot: the largest ratio's name; None if it is below `least`.

        Args:
            least: the least ratio at which a mean does.
        """
        found = max(self.snr, key=lambda per: _or_zero(self.snr[per]), default=None)
        return found if found is not None and _or_zero(self.snr[found]) >= least else None


class SecondMoments(list[Signal]):
    """What `second_moment_snr` has found, a `Signal` for each parameter. `print` shows a table."""

    def __init__(self, signals: list[Signal], groups: list[dict[str, Any]], recipes: list[Recipe]) -> None:
        super().__init__(signals)
        self._groups, self._recipes = groups, recipes

    def groups(self, least: float = 1.0) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer that keeps means where these do.

        Args:
            least: the least ratio at which a mean does.

        Returns:
            The optimizer's groups with all that they say, each divided by what `state=` is to say.
        """
        best = {id(signal.param): (signal.slot, signal.best(least)) for signal in self}
        made: list[dict[str, Any]] = []
        for group, recipe in zip(self._groups, self._recipes, strict=True):
            parts: dict[Any, list[int]] = {}
            for i, param in enumerate(group["params"]):
                parts.setdefault(best.get(id(param), ("", None)), []).append(i)
            made += [_part(group, recipe, slot, per, places) for (slot, per), places in parts.items()]
        return made

    def __str__(self) -> str:
        lines = [("parameter", "shape", *MEANS, "state")]
        for one in self:
            ratios = (f"{one.snr[per]:.3g}" if per in one.snr else "" for per in MEANS)
            lines.append((str(one.name), str(tuple(one.param.shape)), *ratios, one.best() or ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def second_moment_snr(optimizer: Owner, before: SecondMoments | None = None) -> SecondMoments:
    r"""Measure where a mean over rows, columns or the whole tensor could stand for second moments.

    .. math:: \mathrm{SNR}_K(V) = \mathbb{E}_{K'}\!\left[\frac{(\mathbb{E}_K V)^2}{\mathrm{Var}_K V}\right]

    over what shares a number, :math:`K`: a row (fan-in), a column (fan-out) or all (Kalra et al. 2025, arXiv
    2503.01843). What is all alike, where the ratio is not finite, is left out of the outer mean, unless all
    is. The paper averages over looks along a training, and keeps the mean with the largest ratio, if it is
    above 1.

    Args:
        optimizer: one of ours that has taken steps, with second moments in full: float32, bfloat16 or int8.
        before: what this has returned earlier in the training: ratios are then the means over all looks.

    Returns:
        A `SecondMoments`: a list of `Signal`, one for each parameter that could have such means: not vectors,
        those with fewer than 4,096 elements, complex ones, DTensors, and those without state yet. Parameters
        whose gradient is sparse can have rows alone. `groups()` are those for another optimizer.

    Raises:
        ValueError: if a second moment is kept as means already, or `before` is of other parameters.
    """
    optimizer.flush()
    signals = [
        _signal(name, param, slot, allowed, optimizer.state[param])
        for name, param, slot, allowed in _candidates(optimizer)
    ]
    if before is not None:
        signals = _averaged(signals, before)
    groups = [dict(group) for group in optimizer.param_groups]
    return SecondMoments(signals, groups, [optimizer.recipe_of(group) for group in groups])


def _candidates(optimizer: Owner) -> Iterator[tuple[str | int, Tensor, Slot, list[str]]]:
    """Yield names and parameters that could have means, with their second moment and which means."""
    position = 0
    for group in optimizer.param_groups:
        recipe = optimizer.recipe_of(group)
        slot = next((slot for slot in recipe.slots if slot.squares), None)
        names = group.get("param_names") or range(position, position + len(group["params"]))
        position += len(group["params"])
        for name, param in zip(names, group["params"], strict=True):
            if slot is None or not optimizer.state.get(param):
                continue
            allowed = [per for per in MEANS if _is_allowed(recipe, slot, per, param, group)]
            if allowed:
                yield name, param, slot, allowed


def _is_allowed(recipe: Recipe, slot: Slot, per: str, param: Tensor, group: Mapping[str, Any]) -> bool:
    asked = {**group, "state": _state_of(recipe, group, slot.name, per)}
    try:
        choices.check(recipe, asked)
        dims = 0 if param.grad is None or not param.grad.is_sparse else param.grad.sparse_dim()
        choices.refuse_sparse_means(recipe, asked, per, dims)
    except ValueError:
        return False
    return not is_dtensor(param) and choices.mean_of(slot, param, asked) == per


def _signal(
    name: str | int, param: Tensor, slot: Slot, allowed: list[str], state: Mapping[str, Any]
) -> Signal:
    kept = [per for per in MEANS if choices.means_of(slot.name, per) in state]
    if kept:
        raise ValueError(
            f"{slot.name!r} of the parameter {name!r} is kept by {kept[0]}: what the means stand for is lost"
        )
    values = values_of(slot, state, param).detach()
    exact = (values.cpu() if values.device.type == "mps" else values).double().flatten(1)
    return Signal(param, name, slot.name, {per: _ratio(exact, per) for per in allowed})


def _ratio(matrix: Tensor, per: str) -> float:
    over = {"row": (1,), "column": (0,), "tensor": (0, 1)}[per]
    variance, mean = torch.var_mean(matrix, over, correction=0)
    ratio = mean.square() / variance
    finite = ratio[ratio.isfinite()]
    if finite.numel():
        return float(finite.mean())
    return math.inf if bool((mean > 0).any()) else math.nan


def _averaged(signals: list[Signal], before: SecondMoments) -> list[Signal]:
    known = {id(signal.param): signal for signal in before}
    if known.keys() != {id(signal.param) for signal in signals}:
        raise ValueError(
            f"before has looked at {len(known)} parameters, not at the {len(signals)} that there are now"
        )
    return [_joined(known[id(signal.param)], signal) for signal in signals]


def _joined(one: Signal, other: Signal) -> Signal:
    looks = one.looks + other.looks
    pairs = {per: (one.snr.get(per, math.nan), ratio) for per, ratio in other.snr.items()}
    snr = {per: _mean(*ratios, one.looks, other.looks) for per, ratios in pairs.items()}
    return Signal(other.param, other.name, other.slot, snr, looks)


def _mean(a: float, b: float, weight_a: int, weight_b: int) -> float:
    """Return the weighted mean; of a look that has seen nothing, the other."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return (a * weight_a + b * weight_b) / (weight_a + weight_b)


def _part(
    group: Mapping[str, Any], recipe: Recipe, slot: str, per: str | None, places: list[int]
) -> dict[str, Any]:
    """Return a group with some of the parameters of another, and how it says that state is stored."""
    lists = {key: [group[key][i] for i in places] for key in ("params", "param_names") if group.get(key)}
    rest = {key: value for key, value in group.items() if key != "rounding_step"}
    stored = {} if per is None else {"state": _state_of(recipe, group, slot, per)}
    return {**rest, **lists, **stored}


def _state_of(recipe: Recipe, group: Mapping[str, Any], slot: str, per: str) -> dict[str, str]:
    """Return what `state=` says of all slots, if it says `per` of one."""
    state = group.get("state", choices.DEFAULTS["state"])
    if not isinstance(state, str):
        return {**state, slot: per}
    own = [one.name for one in recipe.slots if one.stored_by == "state" and one.maximum_of is None]
    others = {} if state == choices.DEFAULTS["state"] else dict.fromkeys(own, state)
    return {**others, slot: per}


def _or_zero(ratio: float) -> float:
    return 0.0 if math.isnan(ratio) else ratio
