"""The tensors of optimizer state: made at the first gradient, or brought into form from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.rule import Recipe, Slot
from thalweg.stepping.counters import check_counter, counter_device, to_counter
from thalweg.stepping.shards import Inside, is_stepped_in_shards
from thalweg.stepping.slots import (
    at_home,
    check_tensor,
    dtype_of,
    entries_of,
    in_form,
    in_order,
    put,
    state_in_own_blocks,
    stored_of,
)
from thalweg.storage.choices import (
    CORRECTION,
    asks_for_means,
    codec_of_weights,
    codecs_of_slots,
    codes_of,
    key_of,
    scale_of,
)
from thalweg.storage.codecs import BlockCodec, Codec, MeanCodec
from thalweg.storage.codecs.tensors import side_shape, unpack
from thalweg.storage.layout import has_memory, like_home


def prepare(
    recipe: Recipe,
    on: Mapping[str, bool],
    param: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    sparse: int = 0,
) -> bool:
    """Give `state` every slot and counter that `rule` needs under the flags `on`, in form.

    What is missing is made; what has another storage, device or memory order is converted, so that
    state from a checkpoint, from torch or from the user's hand is as good as our own.

    Returns:
        Whether a slot was missing, which makes this the slot's first step.

    Raises:
        ValueError: if a slot is no tensor or has another shape than the parameter, or codes without their
            scales, if a counter is not one number, or if what lies in memory that processes share would
            have to be converted, and so shared no longer.
        RuntimeError: if a counter requires a gradient in a differentiable step, as in torch.
    """
    codecs = codecs_of_slots(recipe.slots_on(on), param, group, sparse)
    codecs["p"] = codec_of_weights(param, group)
    device = counter_device(param, group)
    if not is_stepped_in_shards(param, group):
        return _prepare(recipe, on, param, state, group, codecs, device)
    if any(isinstance(codec, MeanCodec) for codec in codecs.values()):
        raise ValueError(
            f"{asks_for_means(recipe, group)} is not for DTensors: a mean may be over what processes share"
        )
    inside = Inside(param, state_in_own_blocks(recipe, param, state), recipe.slots)
    first = _prepare(recipe, on, inside.param, inside.state, group, codecs, device)
    outside = inside.outside()
    for name in state.keys() - outside.keys():
        del state[name]
    state.update(outside)
    return first


def _prepare(
    recipe: Recipe,
    on: Mapping[str, bool],
    param: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    codecs: Mapping[str, Codec],
    device: torch.device,
) -> bool:
    first = False
    for counter in recipe.counters:
        value = state.get(counter.name, counter.initial)
        if group.get("differentiable") and _is_leaf_with_grad(value):
            raise RuntimeError(
                f"`requires_grad` is not supported for `{counter.name}` in differentiable mode"
            )
        check_counter(counter.name, value)
        formed = to_counter(value, device)
        _check_sharing(counter.name, value, formed)
        state[counter.name] = formed
    for slot in in_order(recipe.slots_on(on), codecs, state, param):
        codec = codecs[slot.name]
        before = stored_of(slot, state)
        if before is None:
            first |= slot.begins
            fill = float(group[slot.initial]) if slot.initial else 0.0
            if isinstance(codec, MeanCodec):
                shape = codec.shape(param.shape)
                means = torch.full(shape, fill, dtype=codec.dtype, device=param.device)
                state[key_of(slot.name, codec)] = means
            elif slot.copies:
                weights = _weights(param, state, codecs["p"], dtype_of(codec, param))
                state.update(entries_of(slot, codec, weights))
            else:
                state.update(_new_slot(slot, codec, param, fill))
            continue
        entries = in_form(slot, codec, state, param)
        _check_sharing(slot.name, before, entries[key_of(slot.name, codec)])
        put(slot, state, entries)
    _prepare_correction(codecs["p"], state, param)
    return first


def _new_slot(slot: Slot, codec: Codec, param: Tensor, fill: float) -> dict[str, Tensor]:
    if isinstance(codec, BlockCodec) and not fill:
        main = like_home(param, codec.dtype, 0.0)
        scales = torch.zeros(side_shape(codec, main), dtype=codec.side, device=param.device)
        return {codes_of(slot.name, codec): main, scale_of(slot.name): scales}
    return entries_of(slot, codec, like_home(param, dtype_of(codec, param), fill))


def _weights(param: Tensor, state: Mapping[str, Any], codec: Codec, dtype: torch.dtype) -> Tensor:
    """Return a copy of a parameter, with its correction, in a dtype and the memory order of its state."""
    value = param.detach()
    if codec.side is not None and state.get(CORRECTION) is not None:
        value = unpack(codec, value, state[CORRECTION])
    return like_home(param, dtype).copy_(value)


def _prepare_correction(codec: Codec, state: dict[str, Any], param: Tensor) -> None:
    if codec.side is None:
        return
    value = state.get(CORRECTION)
    check_tensor(CORRECTION, value)
    if value is None or value.shape != param.shape or value.dtype != codec.side:
        state[CORRECTION] = like_home(param, codec.side, 0.0)
    else:
        state[CORRECTION] = at_home(value, param, codec.side)


def _is_leaf_with_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.is_leaf


def _check_sharing(name: str, before: Any, after: Tensor) -> None:
    """Raise if `before` is shared by processes and `after` is another memory, which would part them."""
    shared = isinstance(before, Tensor) and before.device.type == "cpu" and has_memory(before)
    if after is before or not shared or not before.is_shared() or after.data_ptr() == before.data_ptr():
        return
    raise ValueError(
        f"state {name!r} lies in shared memory as {_form(before)}, and has to be {_form(after)}: convert it "
        "before it is shared"
    )


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} on {tensor.device} with strides {tensor.stride()}"
