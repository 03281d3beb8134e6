"""Checkpoints: snapshots of optimizer state, and loading what we or torch have saved."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

from torch import Tensor

from thalweg.rule import Rule
from thalweg.state import in_form, to_counter

EXECUTION = ("foreach", "fused", "capturable", "differentiable")
"""How a step is carried out is the constructor's choice; a checkpoint says only what was trained."""

Groups = list[dict[str, Any]]
State = defaultdict[Any, dict[str, Any]]


def snapshot(value: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples in which every tensor is a copy of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([snapshot(item) for item in value])
    return deepcopy(value)


def load(rule: Rule, groups: Groups, state_dict: Mapping[str, Any]) -> tuple[State, Groups]:
    """Return the state and the groups that `state_dict` means for the parameters of `groups`.

    Parameters are matched by name where both sides have the same names, and else by position, as in
    torch. Hyperparameters come from the checkpoint, `EXECUTION` from `groups`.

    Raises:
        ValueError: if parameters cannot be matched, or a hyperparameter is not allowed. Nothing has
            been changed then.
    """
    saved = state_dict["param_groups"]
    sources = _sources_by_name(groups, saved) or _sources_by_position(groups, saved)
    param_of: dict[Any, Tensor] = {}
    loaded: Groups = []
    for group, (source, ids) in zip(groups, sources, strict=True):
        param_of.update(zip(ids, group["params"], strict=True))
        kept = {"params", *EXECUTION} | ({"param_names"} if "param_names" in group else set())
        values = {key: deepcopy(v) for key, v in source.items() if key not in kept}
        loaded.append({**group, **values})
        rule.check(loaded[-1])
    state: State = defaultdict(dict)
    for key, value in state_dict["state"].items():
        if key in param_of:
            state[param_of[key]] = _state_in_form(rule, param_of[key], value)
        else:
            state[key] = snapshot(value)
    return state, loaded


def _state_in_form(rule: Rule, param: Tensor, saved: Mapping[str, Any]) -> dict[str, Any]:
    slots = {slot.name for slot in rule.slots}
    counters = {counter.name for counter in rule.counters}
    state = {}
    for name, value in saved.items():
        if value is None and name in slots:
            continue  # torch's SGD saves the momentum that it does not have
        if name in slots:
            state[name] = snapshot(in_form(name, value, param))
        elif name in counters:
            state[name] = to_counter(snapshot(value), "cpu")
        elif isinstance(value, Tensor):
            state[name] = snapshot(value).to(param.device)
        else:
            state[name] = snapshot(value)
    return state


Sources = list[tuple[dict[str, Any], list[Any]]]
"""For each group, the checkpoint's group that it takes its values from, and its parameters' ids there."""


def _sources_by_position(groups: Groups, saved: Groups) -> Sources:
    if len(groups) != len(saved):
        raise ValueError(f"the checkpoint has {len(saved)} parameter groups, the optimizer has {len(groups)}")
    for i, (group, source) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(source["params"]):
            raise ValueError(
                f"parameter group {i} has {len(source['params'])} parameters in the checkpoint "
                f"and {len(group['params'])} in the optimizer"
            )
    return [(source, source["params"]) for source in saved]


def _sources_by_name(groups: Groups, saved: Groups) -> Sources | None:
    """Match by name; None where there are no names on one side, or not the same ones."""
    if not all("param_names" in group for group in chain(groups, saved)):
        return None
    place = {
        name: (i, param_id)
        for i, source in enumerate(saved)
        for name, param_id in zip(source["param_names"], source["params"], strict=True)
    }
    own = [name for group in groups for name in group["param_names"]]
    if sorted(own) != sorted(place):
        warnings.warn(
            "the checkpoint's parameter names differ from the optimizer's, so parameters are "
            f"matched by position; only in one of them: {sorted(set(own) ^ set(place))[:6]}",
            stacklevel=4,
        )
        return None
    sources: Sources = []
    for i, group in enumerate(groups):
        places = [place[name] for name in group["param_names"]]
        origins = [saved[j] for j in sorted({j for j, _ in places})] or [group]
        _check_agreement(i, origins)
        sources.append((origins[0], [param_id for _, param_id in places]))
    return sources


def _check_agreement(index: int, origins: Groups) -> None:
    for other in origins[1:]:
        for key in other.keys() - {"params", "param_names", *EXECUTION}:
            if other[key] != origins[0].get(key):
                raise ValueError(
                    f"parameter group {index} takes its parameters from several groups of the "
                    f"checkpoint, which differ in {key!r}: {origins[0].get(key)!r} and {other[key]!r}"
                )
