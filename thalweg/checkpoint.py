"""Checkpoints: snapshots of optimizer state, and loading what we or torch have saved."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from thalweg import storage
from thalweg.codecs.tensors import pack, unpack
from thalweg.layout import like_home
from thalweg.rule import Rule, Slot
from thalweg.state import bring_into_form, to_counter, values_of

EXECUTION = ("foreach", "fused", "capturable", "differentiable", *storage.CHOICES)
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
    group_of: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {}
    loaded: Groups = []
    for group, (source, ids) in zip(groups, sources, strict=True):
        param_of.update(zip(ids, group["params"], strict=True))
        kept = {"params", *EXECUTION} | ({"param_names"} if "param_names" in group else set())
        values = {key: deepcopy(v) for key, v in source.items() if key not in kept}
        if isinstance(values.get("rounding_step"), Tensor):
            values["rounding_step"] = int(values["rounding_step"])
        loaded.append({**group, **values})
        rule.check(loaded[-1])
        storage.check(rule, loaded[-1])
        group_of.update((param_id, (loaded[-1], source)) for param_id in ids)
    state: State = defaultdict(dict)
    for key, value in state_dict["state"].items():
        if key in param_of:
            state[param_of[key]] = _state_in_form(rule, param_of[key], value, *group_of[key])
        else:
            state[key] = snapshot(value)
    return state, loaded


def _state_in_form(
    rule: Rule,
    param: Tensor,
    saved: Mapping[str, Any],
    group: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    slots = {slot.name: slot for slot in rule.slots}
    counters = {counter.name for counter in rule.counters}
    state = {}
    for name, value in saved.items():
        if value is None and name in slots:
            continue  # torch's SGD saves the momentum that it does not have
        if name in counters:
            state[name] = to_counter(snapshot(value), "cpu")
        elif isinstance(value, Tensor):
            state[name] = snapshot(value).to(param.device)
        else:
            state[name] = snapshot(value)
    for name in slots.keys() & state.keys():
        sparse = _was_sparse(rule, slots[name], state[name], param, source)
        bring_into_form(slots[name], storage.codec_of_slot(slots[name], param, group, sparse), state, param)
    return state


def _was_sparse(rule: Rule, slot: Slot, value: Tensor, param: Tensor, source: Mapping[str, Any]) -> bool:
    """Say whether a slot is in float32 although its group wanted less: then its gradients were sparse.

    Packing it here would lose what the next step, which knows the gradient, would want back.
    """
    known = {**storage.DEFAULTS, **source}
    return value.dtype == torch.float32 and storage.codec_of_slot(slot, param, known, False).drawn > 0


def in_full_precision(rule: Rule, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict, which it may change, with all slots as numbers that torch computes with."""
    slots = {slot.name: slot for slot in rule.slots}
    ours = {storage.CORRECTION, *map(storage.scale_of, slots)}
    state = {
        key: {
            name: values_of(slots[name], own) if name in slots else value
            for name, value in own.items()
            if name not in ours
        }
        for key, own in state_dict["state"].items()
    }
    groups = [
        {name: value for name, value in group.items() if name not in storage.DEFAULTS}
        for group in state_dict["param_groups"]
    ]
    return {**state_dict, "state": state, "param_groups": groups}


def full_weights(param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """Return the values of a parameter with its correction, float32 if it is of 16 bits."""
    codec = storage.codec_of_weights(param, group)
    value = param.detach()
    if value.is_complex() or codec.compute == value.dtype:
        return value.clone()
    return unpack(codec, value, state.get(storage.CORRECTION))


def check_weights(params: Mapping[Any, Tensor], weights: Mapping[Any, Tensor]) -> None:
    """Raise ValueError if `weights` are not those of `params`."""
    if params.keys() != weights.keys():
        different = sorted(map(str, params.keys() ^ weights.keys()))
        raise ValueError(f"weights must be those of the optimizer's parameters; not in both: {different[:6]}")
    for key, param in params.items():
        if weights[key].shape != param.shape:
            raise ValueError(
                f"weights[{key!r}] must have the shape {tuple(param.shape)}, not {tuple(weights[key].shape)}"
            )


def set_weights(param: Tensor, weights: Tensor, state: State, group: Mapping[str, Any]) -> None:
    """Set a parameter and its correction to `weights`, to nearest."""
    codec = storage.codec_of_weights(param, group)
    if codec.side is None:
        param.copy_(weights)
        return
    main, side = pack(codec, like_home(param, codec.compute).copy_(weights))
    param.copy_(main)
    state[param][storage.CORRECTION] = side


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
