"""Checkpoints: loading what we or torch have saved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from thalweg import additions
from thalweg.optimizer.matching import sources_by_name, sources_by_position
from thalweg.optimizer.saving import EXECUTION, RULE, Groups, RecipeOf, State, without_defaults
from thalweg.rule import Recipe
from thalweg.stepping.counters import to_counter
from thalweg.stepping.plain import is_in_plain_form
from thalweg.stepping.shards import Inside, is_stepped_in_shards
from thalweg.stepping.slots import in_form, in_order, put, state_in_own_blocks, stored_of
from thalweg.storage import choices as storage
from thalweg.storage.codecs import Codec


def load(
    recipe_of: RecipeOf, groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> tuple[State, Groups]:
    """Return the state and the groups that `state_dict` means for the parameters of `groups`.

    Parameters are matched by name where both sides have the same names, and else by position, as in
    torch. Hyperparameters come from the checkpoint, `EXECUTION` and additions that it does not name from
    `groups`. Tensors are shared with the checkpoint where torch would share them, and are else copied once.

    Raises:
        ValueError: if parameters cannot be matched, a hyperparameter is not allowed, or the checkpoint is
            that of another algorithm. Nothing has been changed then.
    """
    saved = state_dict["param_groups"]
    sources = sources_by_name(recipe_of, groups, saved) or sources_by_position(groups, saved)
    param_of: dict[Any, Tensor] = {}
    group_of: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {}
    loaded: Groups = []
    copies: dict[int, Any] = {}
    for index, (group, (source, ids)) in enumerate(zip(groups, sources, strict=True)):
        _check_hyperparameters(recipe_of(group), index, source)
        param_of.update(zip(ids, group["params"], strict=True))
        loaded.append(_group_in_form(recipe_of, group, source, copies))
        group_of.update((param_id, (loaded[-1], source)) for param_id in ids)
    state: State = defaultdict(dict)
    for key, value in state_dict["state"].items():
        if key not in param_of:
            state[key] = value
        elif isinstance(value, Mapping):
            recipe = recipe_of(group_of[key][0])
            _check_state(recipe, key, value)
            state[param_of[key]] = _state_in_form(recipe, param_of[key], value, *group_of[key])
        else:
            state[param_of[key]] = _moved(value, param_of[key])
    return state, loaded


def _group_in_form(
    recipe_of: RecipeOf, group: Mapping[str, Any], source: Mapping[str, Any], copies: dict[int, Any]
) -> dict[str, Any]:
    """Return the group that `source`, of a checkpoint, means in the place of `group`.

    A flag of the rule that the checkpoint does not name was off: torch had no such flag when it was saved, or
    has none.
    """
    kept = {"params", *EXECUTION} | ({"param_names", RULE} & group.keys())
    if RULE in group and source.get(RULE, group[RULE]) != group[RULE]:
        raise ValueError(
            f"a group follows the rule of {group[RULE]} here and of {source[RULE]} in the checkpoint"
        )
    values = {key: deepcopy(value, copies) for key, value in source.items() if key not in kept}
    if isinstance(values.get("rounding_step"), Tensor):
        values["rounding_step"] = int(values["rounding_step"])
    before = recipe_of(group)
    rule = before.rule
    ours = {hyper.name for hyper in rule.hypers} | storage.DEFAULTS.keys() | additions.NAMES | kept
    flags = {hyper.name: False for hyper in rule.hypers if hyper.flag and hyper.name not in kept}
    own = {key: value for key, value in group.items() if key in ours}
    unsaid = {hyper.name: hyper.unsaid for hyper in before.hypers if hyper.unsaid is not None}
    new = {**own, **flags, **unsaid, **values}
    recipe = additions.check(rule, new, as_set=True)
    storage.check(recipe, new)
    without_defaults(recipe, new)
    return new


def _check_hyperparameters(recipe: Recipe, index: int, source: Mapping[str, Any]) -> None:
    needed = [hyper for hyper in recipe.hypers if not (hyper.flag or hyper.extra) and hyper.unsaid is None]
    missing = [hyper.name for hyper in needed if hyper.name not in source]
    if missing:
        raise ValueError(
            f"the checkpoint is not of {recipe.name}: its parameter group {index} has no {_listed(missing)}"
        )


def _check_state(recipe: Recipe, key: Any, saved: Mapping[str, Any]) -> None:
    """Raise if a parameter has state, and lacks what every state of the algorithm has."""
    found = [name for name, value in saved.items() if value is not None and name != storage.CORRECTION]
    needed = [counter.name for counter in recipe.rule.counters]
    needed += [slot.name for slot in recipe.rule.slots if slot.when is None]
    has = {storage.slot_of(name) for name in found if isinstance(name, str)}
    missing = [name for name in needed if name not in has]
    if found and missing:
        raise ValueError(
            f"the checkpoint is not of {recipe.name}: its state of parameter {key} has {_listed(found)}, "
            f"and no {_listed(missing)}"
        )


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names))


def _state_in_form(
    recipe: Recipe,
    param: Tensor,
    saved: Mapping[str, Any],
    group: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the state of a parameter from what a checkpoint has of it."""
    asks = storage.DEFAULTS.keys() & group.keys() or storage.asks_for_means(recipe, group)
    if not asks and is_in_plain_form(recipe, param, saved):
        return dict(saved)
    if not is_stepped_in_shards(param, group):
        return _formed(recipe, param, param, saved, group, source)
    inside = Inside(param, state_in_own_blocks(recipe, param, saved), recipe.slots)
    inside.state = _formed(recipe, param, inside.param, inside.state, group, source)
    return inside.outside()


def _formed(
    recipe: Recipe,
    param: Tensor,
    memory: Tensor,
    saved: Mapping[str, Any],
    group: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the state of what is stepped of a parameter, `memory`, in form."""
    slots = [slot for slot in recipe.slots if stored_of(slot, saved) is not None]
    state = {name: value for name, value in saved.items() if value is not None or not _is_slot(recipe, name)}
    wanted, wanted_there = (storage.codecs_of_slots(recipe.slots, param, one, 0) for one in (group, source))
    for slot in in_order(slots, wanted, state, memory):
        codec = wanted[slot.name]
        if _was_sparse(stored_of(slot, state), wanted_there[slot.name]):
            codec = storage.codecs_of_slots(recipe.slots, param, group, 1)[slot.name]
        put(slot, state, in_form(slot, codec, state, memory))
    for counter in recipe.counters:
        if counter.name in state:
            state[counter.name] = to_counter(_own(counter.name, state[counter.name], memory), "cpu")
    formed = {name for slot in slots for name in storage.keys_of(slot.name)}
    known = {id(value) for value in saved.values()}
    for name, value in state.items():
        if name in formed:
            state[name] = _own(name, value, memory) if id(value) in known else value
        elif not any(name == counter.name for counter in recipe.counters):
            state[name] = _moved(value, memory)
    return state


def _is_slot(recipe: Recipe, name: Any) -> bool:
    # torch's SGD saves None as the momentum that it does not have.
    return any(name == slot.name for slot in recipe.slots)


def _own(name: Any, value: Any, param: Tensor) -> Any:
    """Return `value`, or a copy of it where torch, loading it, would have had to make one."""
    if not isinstance(value, Tensor):
        return value
    as_it_is = name == "step" or not param.is_floating_point() or value.dtype == param.dtype
    return value if as_it_is else value.detach().clone()


def _moved(value: Any, param: Tensor) -> Any:
    """Return the user's own state on the device of its parameter; its dtype is the user's."""
    if isinstance(value, Tensor):
        return _own(None, value, param) if value.device == param.device else value.to(param.device)
    if type(value) in (list, tuple):
        return type(value)(_moved(item, param) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, param) for key, item in value.items()}
    return value


def _was_sparse(value: Tensor, wanted: Codec) -> bool:
    """Say whether a slot is in float32 although its group wanted less: then its gradients were sparse.

    Packing it here would lose what the next step, which knows the gradient, would want back.
    """
    return value.dtype == torch.float32 and wanted.drawn > 0
