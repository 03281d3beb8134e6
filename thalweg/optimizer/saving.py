"""Checkpoints: what is saved of groups and state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from thalweg import additions
from thalweg.rule import Recipe
from thalweg.stepping.slots import values_of
from thalweg.storage import choices as storage

STORAGE = (*storage.CHOICES, *additions.STORAGE)

EXECUTION = ("foreach", "fused", "capturable", "differentiable", *STORAGE)
"""How a step is carried out is the constructor's choice; a checkpoint says only what was trained."""

RULE = "optimizer"
"""The key of a group that names the class whose rule it follows, where each has one of its own."""

Groups = list[dict[str, Any]]
State = defaultdict[Any, dict[str, Any]]
RecipeOf = Callable[[Mapping[str, Any]], Recipe]


def without_defaults(recipe: Recipe, group: dict[str, Any]) -> None:
    """Take from `group` what torch's group does not have, where it says what holds anyway.

    Args:
        recipe: what its steps are made by.
        group: a parameter group, checked; it is changed.
    """
    for hyper in recipe.rule.hypers:
        if hyper.extra and hyper.name in group and hyper.is_default(group[hyper.name]):
            del group[hyper.name]
    additions.without_defaults(group)
    storage.settle(group)


def in_full_precision(recipe_of: RecipeOf, state_dict: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """Return a state dict with all slots as numbers that torch computes with; `state_dict` stays as it is.

    Args:
        recipe_of: what the steps of a group are made by.
        state_dict: of the optimizer.
        groups: its own, with the parameters.
    """
    group_of: dict[Any, tuple[Any, Tensor]] = {}
    for saved, group in zip(state_dict["param_groups"], groups, strict=True):
        group_of.update((key, (saved, p)) for key, p in zip(saved["params"], group["params"], strict=True))
    state = {
        key: _unpacked(recipe_of(group_of[key][0]), own, group_of[key][1]) if key in group_of else own
        for key, own in state_dict["state"].items()
    }
    groups = [
        {name: value for name, value in group.items() if name not in {*storage.DEFAULTS, *STORAGE}}
        for group in state_dict["param_groups"]
    ]
    return {**state_dict, "state": state, "param_groups": groups}


def _unpacked(recipe: Recipe, own: Any, param: Tensor) -> Any:
    if not isinstance(own, dict):
        return own
    slots = {slot.name: slot for slot in recipe.slots}
    sides = {storage.CORRECTION, *map(storage.scale_of, slots)}
    full = {}
    for key, value in own.items():
        slot = slots.get(storage.slot_of(key)) if isinstance(key, str) else None
        if slot is not None and value is not None:
            full[slot.name] = values_of(slot, own, param)
        elif key not in sides:
            full[key] = value
    return full
