"""Slots of optimizer state: how one is stored, its values, and the form in which it is stepped.

A slot is stored as numbers, as codes with their scales, or as means; each has a key of its own. Codes may be
of ratios to the root of another slot, which is then needed for its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.distributed.parts import blocks_shape, dtensor_like, is_cut_alike, is_dtensor, part_of
from thalweg.rule import Recipe, Slot
from thalweg.storage.choices import codes_of, has_blocks, key_of, keys_of, means_of, scale_of
from thalweg.storage.codecs import (
    BLOCK,
    FLOAT32,
    MEANS,
    BlockCodec,
    Codec,
    MeanCodec,
    RatioCodec,
    block_codecs,
    mean_codec,
)
from thalweg.storage.codecs.tensors import pack, side_shape, unpack
from thalweg.storage.layout import home_order, is_plain, like_home, order


def stored_of(slot: Slot, state: Mapping[str, Any]) -> Any:
    """Return what is stored of a slot, numbers, codes or means; None if there is nothing."""
    return state.get(_stored_key(slot, state))


def _stored_key(slot: Slot, state: Mapping[str, Any]) -> str:
    """Return where that lies. Numbers go first: who has put them beside others wants them to be the slot."""
    return next((key for key in keys_of(slot.name) if state.get(key) is not None), slot.name)


def put(slot: Slot, state: dict[str, Any], entries: Mapping[str, Tensor]) -> None:
    """Have `state` hold `entries`, and nothing else, of a slot."""
    for name in (*keys_of(slot.name), scale_of(slot.name)):
        if name not in entries:
            state.pop(name, None)
    state.update(entries)


def in_form(slot: Slot, codec: Codec, state: Mapping[str, Any], param: Tensor) -> dict[str, Tensor]:
    """Return the entries of a slot that `state` has, as `codec` stores it and in its memory order.

    Raises:
        ValueError: if its shape is not that of `param`, or its codes lack their scales.
    """
    value = stored_of(slot, state)
    means = _means_stored(slot, state)
    if means is None:
        _check_shape(slot.name, value, param)
    else:
        _check_means(means_of(slot.name, means.per), value, means, param)
        if isinstance(codec, MeanCodec) and codec.per == means.per:
            return {key_of(slot.name, codec): value.to(param.device, codec.dtype).contiguous()}
    if isinstance(codec, MeanCodec):
        values = values_of(slot, state, param).to(param.device)
        real = torch.view_as_real(values) if values.is_complex() else values
        return {key_of(slot.name, codec): _means(codec, real).to(codec.dtype)}
    stored = stored_codec(slot, state) if means is None else None
    if stored is not None and stored == codec and _is_home(value, param):
        scales = state[scale_of(slot.name)].to(param.device).contiguous()
        return {codes_of(slot.name, stored): value, scale_of(slot.name): scales}
    if isinstance(codec, RatioCodec):
        return _ratios(slot, codec, state, param)
    if means is not None:
        return entries_of(
            slot, codec, like_home(param, dtype_of(codec, param)).copy_(_spread(means, value, param))
        )
    if stored is None:
        value = _in_plain_form(value, codec, param)
        if value.dtype == codec.dtype or param.is_complex():
            return {slot.name: value}
        return entries_of(slot, codec, at_home(value, param, codec.compute))
    return entries_of(slot, codec, at_home(values_of(slot, state, param), param, codec.compute))


def _ratios(slot: Slot, codec: RatioCodec, state: Mapping[str, Any], param: Tensor) -> dict[str, Tensor]:
    """Return the entries of a slot as ratios to the root of the other one, as `state` has it."""
    values = at_home(values_of(slot, state, param), param, codec.compute)
    other = _root_of(codec)
    if stored_of(other, state) is None:
        return entries_of(slot, codec, codec.part(values, torch.zeros_like(values)))
    beside = at_home(values_of(other, state, param), param, codec.compute)
    return entries_of(slot, codec, codec.part(values, beside))


def in_order(
    slots: Sequence[Slot], codecs: Mapping[str, Codec], state: dict[str, Any], param: Tensor
) -> list[Slot]:
    """Return slots as they can be brought into form: those last that become ratios to others.

    Ratios that will be something else, or to what has other elements, are numbers in `state` from now on.
    """
    there = [slot for slot in slots if slot.over and isinstance(stored_of(slot, state), Tensor)]
    for slot in there:
        codec = codecs[slot.name]
        is_kept = isinstance(codec, RatioCodec) and _means_of(codec, state) == _per(codecs[codec.over])
        if _is_ratio(slot, state) and not is_kept:
            put(slot, state, {slot.name: values_of(slot, state, param)})
    return sorted(slots, key=lambda slot: slot in there and isinstance(codecs[slot.name], RatioCodec))


def _is_ratio(slot: Slot, state: Mapping[str, Any]) -> bool:
    return _means_stored(slot, state) is None and isinstance(stored_codec(slot, state), RatioCodec)


def _root_of(codec: RatioCodec) -> Slot:
    """Return the slot that ratios are to the root of."""
    return Slot(codec.over, signed=False)


def _means_of(codec: RatioCodec, state: Mapping[str, Any]) -> str | None:
    return _per(_means_stored(_root_of(codec), state))


def _per(codec: Codec | None) -> str | None:
    return codec.per if isinstance(codec, MeanCodec) else None


def _whole(stored: Codec, values: Tensor, state: Mapping[str, Any], param: Tensor) -> Tensor:
    """Return the values of what was stored as `values`, perhaps ratios to the root of another slot.

    Raises:
        ValueError: if that is not there.
    """
    if not isinstance(stored, RatioCodec):
        return values
    other = _root_of(stored)
    check_tensor(other.name, stored_of(other, state))
    if stored_of(other, state) is None:
        raise ValueError(f"the state holds ratios to the root of {other.name!r}, which is missing")
    beside = values_of(other, state, param)
    return stored.whole(values, (part_of(beside) if is_dtensor(beside) else beside).to(values))


def stored_codec(slot: Slot, state: Mapping[str, Any]) -> BlockCodec | None:
    """Return the codec of a slot that is stored in blocks; None for one that holds numbers.

    Codes under the slot's own name are those of checkpoints from before they had one.

    Raises:
        ValueError: if it holds codes and there are no scales to them.
    """
    name = _stored_key(slot, state)
    value, scales = state[name], state.get(scale_of(slot.name))
    if name == slot.name and value.dtype not in (torch.int8, torch.uint8):
        return None
    codecs = block_codecs(slot.signed, slot.over)
    shape = blocks_shape(value, BLOCK) if is_dtensor(value) else side_shape(codecs[0], value)
    check_tensor(scale_of(slot.name), scales)
    codec = None if scales is None else next((one for one in codecs if one.side == scales.dtype), None)
    if scales is None or codec is None or tuple(scales.shape) != shape:
        found = None if scales is None else (scales.dtype, tuple(scales.shape))
        sides = " or ".join(str(one.side) for one in codecs)
        raise ValueError(
            f"state {name!r} holds codes, so {scale_of(slot.name)!r} must be a "
            f"{sides} tensor of shape {shape}, not {found}"
        )
    if value.dtype != codec.dtype:
        raise ValueError(f"state {name!r} must have codes of {codec.dtype}, not {value.dtype}")
    return codec


def values_of(slot: Slot, state: Mapping[str, Any], param: Tensor) -> Tensor:
    """Return the values of a slot of `param`, in a dtype that torch's optimizers compute in."""
    value: Tensor = stored_of(slot, state)
    means = _means_stored(slot, state)
    if means is not None:
        return _spread(means, value, param).contiguous()
    stored = stored_codec(slot, state)
    if stored is not None:
        scales = state[scale_of(slot.name)]
        if is_dtensor(value):
            own = unpack(stored, part_of(value), part_of(scales).reshape(-1))
            return dtensor_like(value, _whole(stored, own, state, param))
        # Blocks are of neighbours in memory. Where there are gaps, codes must be in the order of their home.
        is_dense = is_plain(value) and order(value) is not None
        codes = value if is_dense else like_home(param, value.dtype).copy_(value)
        return _whole(stored, unpack(stored, codes, scales), state, param)
    return value.float() if value.dtype == torch.bfloat16 else value


def state_in_own_blocks(recipe: Recipe, param: Tensor, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a DTensor, with numbers where codes have other blocks than its part would have."""
    found = dict(state)
    for slot in recipe.slots:
        value = stored_of(slot, found)
        if not isinstance(value, Tensor) or stored_codec(slot, found) is None:
            continue
        if not has_blocks(param) or (is_dtensor(value) and not is_cut_alike(value, param)):
            put(slot, found, {slot.name: values_of(slot, found, param)})
    return found


def entries_of(slot: Slot, codec: Codec, values: Tensor) -> dict[str, Tensor]:
    """Return the state entries of a slot with the given values, rounded to nearest."""
    main, side = (values, None) if values.is_complex() else pack(codec, values)
    entries = {key_of(slot.name, codec): main}
    return entries if side is None else {**entries, scale_of(slot.name): side}


def dtype_of(codec: Codec, param: Tensor) -> torch.dtype:
    """Return the dtype in which the values of a slot are computed with: the codec's, or its complex form."""
    return codec.compute.to_complex() if param.is_complex() else codec.compute


def _means_stored(slot: Slot, state: Mapping[str, Any]) -> MeanCodec | None:
    """Return the codec of a slot that is stored as means; None for one whose elements have their own."""
    key = _stored_key(slot, state)
    return next((mean_codec(FLOAT32, per) for per in MEANS if key == means_of(slot.name, per)), None)


def _spread(codec: MeanCodec, means: Tensor, param: Tensor) -> Tensor:
    """Return a view of means in which each element of `param` has its own."""
    return codec.spread(means, param.shape).expand(param.shape)


def _means(codec: MeanCodec, values: Tensor) -> Tensor:
    return codec.mean(values).reshape(codec.shape(values.shape))


def _in_plain_form(value: Tensor, codec: Codec, param: Tensor) -> Tensor:
    """Return a slot's numbers at home in the codec's dtype, or in the one that it is packed from."""
    dtype = dtype_of(codec, param)
    if value.dtype == codec.dtype and not isinstance(codec, BlockCodec):
        dtype = codec.dtype
    return at_home(value, param, dtype)


def _is_home(value: Tensor, param: Tensor) -> bool:
    if value.device != param.device or not is_plain(value):
        return False
    if value.is_contiguous() and param.is_contiguous() and is_plain(param):
        return True
    return order(value) == home_order(param)


def at_home(value: Tensor, param: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `value` in a dtype and the memory order of the state of `param`; itself, if it is so already."""
    if value.dtype == dtype and _is_home(value, param):
        return value
    return like_home(param, dtype).copy_(value)


def check_tensor(name: str, value: Any) -> None:
    """Raise ValueError if there is a value, and it is no tensor."""
    if value is not None and not isinstance(value, Tensor):
        raise ValueError(f"state {name!r} must be a tensor, not {value!r}")


def _check_shape(name: str, value: Any, param: Tensor) -> None:
    check_tensor(name, value)
    if value.shape != param.shape:
        raise ValueError(
            f"state {name!r} must have the shape of its parameter, {tuple(param.shape)}, "
            f"not {tuple(value.shape)}"
        )


def _check_means(name: str, value: Any, codec: MeanCodec, param: Tensor) -> None:
    check_tensor(name, value)
    shape = codec.shape(param.shape)
    if value.shape != shape:
        raise ValueError(
            f"state {name!r} must have one number for each {codec.per} of its parameter, {shape}, "
            f"not {tuple(value.shape)}"
        )
