"""The tensors of optimizer state: made at the first gradient, or brought into form from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.distributed.parts import blocks_shape, dtensor_like, is_cut_alike, is_dtensor, part_of
from thalweg.rule import Recipe, Slot
from thalweg.stepping.shards import Inside, is_stepped_in_shards
from thalweg.storage.choices import (
    CORRECTION,
    asks_for_means,
    codec_of_weights,
    codecs_of_slots,
    codes_of,
    has_blocks,
    key_of,
    keys_of,
    means_of,
    scale_of,
)
from thalweg.storage.codecs import (
    BLOCK,
    FLOAT32,
    MEANS,
    BlockCodec,
    Codec,
    MeanCodec,
    block_codecs,
    mean_codec,
)
from thalweg.storage.codecs.tensors import pack, side_shape, unpack
from thalweg.storage.layout import has_memory, home_order, is_plain, like_home, order


def counter_dtype() -> torch.dtype:
    """Return the dtype of counters: torch's, float64 where that is the default dtype and else float32."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def counter_device(param: Tensor, group: Mapping[str, Any]) -> torch.device:
    """Return where counters are kept: on the device where kernels advance them, or `capturable` says so."""
    # Imported with the first state: `import thalweg` stays light.
    from thalweg.lowering.gpu import tables as cuda

    has_kernel = has_memory(param) and not group.get("differentiable")
    there = (has_kernel and cuda.serves(param.device)) or group.get("capturable")
    return param.device if there else torch.device("cpu")


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
        _check_counter(counter.name, value)
        formed = to_counter(value, device)
        _check_sharing(counter.name, value, formed)
        state[counter.name] = formed
    for slot in recipe.slots_on(on):
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
                weights = _weights(param, state, codecs["p"], _dtype(codec, param))
                state.update(_packed(slot, codec, weights))
            else:
                state.update(_new_slot(slot, codec, param, fill))
            continue
        entries = in_form(slot, codec, state, param)
        _check_sharing(slot.name, before, entries[key_of(slot.name, codec)])
        put(slot, state, entries)
    _prepare_correction(codecs["p"], state, param)
    return first


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


def prepare_plain(
    recipe: Recipe,
    on: Mapping[str, bool],
    param: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    codecs: Mapping[str, Codec],
) -> bool | None:
    """Do what `prepare` does where nothing has to be converted, which takes a tenth of the time.

    Returns:
        What `prepare` returns; None if it has to be asked.
    """
    if is_dtensor(param):
        return None
    is_plain_param = param.device.type == "cpu" and param.is_contiguous() and not param.is_complex()
    if not is_plain_param or group.get("differentiable") or group.get("capturable"):
        return None
    if any(codec.side is not None for codec in codecs.values()):
        return None
    if any(isinstance(codec, MeanCodec) for codec in codecs.values()):
        return None
    first, dtype, shape = False, counter_dtype(), param.shape
    for counter in recipe.counters:
        value = state.get(counter.name)
        if counter.name not in state:
            state[counter.name] = torch.full((), counter.initial, dtype=dtype, device="cpu")
        elif not _is_plain(value, dtype, torch.Size(())):
            return None
    for slot in recipe.slots_on(on):
        value, dtype = state.get(slot.name), codecs[slot.name].dtype
        if value is None and not state.keys() & keys_of(slot.name):
            if slot.copies:
                state[slot.name] = param.detach().to(dtype, copy=True)
            else:
                fill = float(group[slot.initial]) if slot.initial else 0.0
                state[slot.name] = torch.full_like(param, fill, dtype=dtype, requires_grad=False)
            first |= slot.begins
        elif not _is_plain(value, dtype, shape):
            return None
    return first


def is_in_plain_form(recipe: Recipe, param: Tensor, state: Mapping[str, Any]) -> bool:
    """Say whether `state` is all in form, and numbers of the dtype of `param`, which is plain memory."""
    if param.dtype not in (torch.float32, torch.float64) or param.device.type != "cpu":
        return False
    if not param.is_contiguous():
        return False
    counters = {counter.name for counter in recipe.counters}
    slots = {slot.name for slot in recipe.slots}
    for name, value in state.items():
        if name in counters:
            # Others than the step torch brings into the dtype of the parameter, as it would a slot.
            converted = name != "step" and value.dtype != param.dtype
            if converted or not _is_plain(value, counter_dtype(), torch.Size(())):
                return False
        elif name not in slots or not _is_plain(value, param.dtype, param.shape):
            return False
    return True


def _is_plain(value: Any, dtype: torch.dtype, shape: torch.Size) -> bool:
    plain = type(value) is Tensor and value.dtype == dtype and value.shape == shape
    placed = plain and value.device.type == "cpu" and value.is_contiguous()
    return placed and is_plain(value) and not value.requires_grad


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


def _new_slot(slot: Slot, codec: Codec, param: Tensor, fill: float) -> dict[str, Tensor]:
    if isinstance(codec, BlockCodec) and not fill:
        main = like_home(param, codec.dtype, 0.0)
        scales = torch.zeros(side_shape(codec, main), dtype=codec.side, device=param.device)
        return {codes_of(slot.name): main, scale_of(slot.name): scales}
    return _packed(slot, codec, like_home(param, _dtype(codec, param), fill))


def _weights(param: Tensor, state: Mapping[str, Any], codec: Codec, dtype: torch.dtype) -> Tensor:
    """Return a copy of a parameter, with its correction, in a dtype and the memory order of its state."""
    value = param.detach()
    if codec.side is not None and state.get(CORRECTION) is not None:
        value = unpack(codec, value, state[CORRECTION])
    return like_home(param, dtype).copy_(value)


def _dtype(codec: Codec, param: Tensor) -> torch.dtype:
    """Return the dtype in which the values of a slot are computed with: the codec's, or its complex form."""
    return codec.compute.to_complex() if param.is_complex() else codec.compute


def _packed(slot: Slot, codec: Codec, values: Tensor) -> dict[str, Tensor]:
    """Return the state entries of a slot with the given values, rounded to nearest."""
    main, side = (values, None) if values.is_complex() else pack(codec, values)
    entries = {key_of(slot.name, codec): main}
    return entries if side is None else {**entries, scale_of(slot.name): side}


def _prepare_correction(codec: Codec, state: dict[str, Any], param: Tensor) -> None:
    if codec.side is None:
        return
    value = state.get(CORRECTION)
    _check_tensor(CORRECTION, value)
    if value is None or value.shape != param.shape or value.dtype != codec.side:
        state[CORRECTION] = like_home(param, codec.side, 0.0)
    else:
        state[CORRECTION] = _at_home(value, param, codec.side)


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
    if means is not None:
        return _packed(
            slot, codec, like_home(param, _dtype(codec, param)).copy_(_spread(means, value, param))
        )
    stored = stored_codec(slot, state)
    if stored is None:
        value = _in_plain_form(value, codec, param)
        if value.dtype == codec.dtype or param.is_complex():
            return {slot.name: value}
        return _packed(slot, codec, _at_home(value, param, codec.compute))
    scales = state[scale_of(slot.name)]
    if stored == codec and _is_home(value, param):
        return {codes_of(slot.name): value, scale_of(slot.name): scales.to(param.device).contiguous()}
    # Blocks are of codes that are neighbours in memory. Where there are gaps, their order must be the home's.
    codes = (
        value if is_plain(value) and order(value) is not None else like_home(param, value.dtype).copy_(value)
    )
    return _packed(slot, codec, _at_home(unpack(stored, codes, scales), param, codec.compute))


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
    codecs = block_codecs(slot.signed)
    shape = blocks_shape(value, BLOCK) if is_dtensor(value) else side_shape(codecs[0], value)
    _check_tensor(scale_of(slot.name), scales)
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
            return dtensor_like(value, unpack(stored, part_of(value), part_of(scales).reshape(-1)))
        return unpack(stored, value, scales)
    return value.float() if value.dtype == torch.bfloat16 else value


def _means_stored(slot: Slot, state: Mapping[str, Any]) -> MeanCodec | None:
    """Return the codec of a slot that is stored as means; None for one whose elements have their own."""
    key = _stored_key(slot, state)
    return next((mean_codec(FLOAT32, per) for per in MEANS if key == means_of(slot.name, per)), None)


def _spread(codec: MeanCodec, means: Tensor, param: Tensor) -> Tensor:
    """Return a view of means in which each element of `param` has its own."""
    return codec.spread(means, param.shape).expand(param.shape)


def _means(codec: MeanCodec, values: Tensor) -> Tensor:
    return codec.mean(values).reshape(codec.shape(values.shape))


def to_counter(value: Any, device: Any) -> Tensor:
    """Return `value`, a number or a one-element tensor, as a counter: 0-dim, of `counter_dtype`.

    A tensor that needs no conversion keeps its memory, whatever its shape.
    """
    if isinstance(value, Tensor):
        whole = value if value.dim() == 0 else value.reshape(())
        return whole.resolve_neg().to(device=device, dtype=counter_dtype())
    return torch.full((), float(value), dtype=counter_dtype(), device=device)


def _check_counter(name: str, value: Any) -> None:
    is_one = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, (Number, np.generic))
    if not is_one:
        said = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"state {name!r} must be one number, not {said}")


def _check_tensor(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Tensor):
        raise ValueError(f"state {name!r} must be a tensor, not {value!r}")


def _check_shape(name: str, value: Any, param: Tensor) -> None:
    _check_tensor(name, value)
    if value.shape != param.shape:
        raise ValueError(
            f"state {name!r} must have the shape of its parameter, {tuple(param.shape)}, "
            f"not {tuple(value.shape)}"
        )


def _check_means(name: str, value: Any, codec: MeanCodec, param: Tensor) -> None:
    _check_tensor(name, value)
    shape = codec.shape(param.shape)
    if value.shape != shape:
        raise ValueError(
            f"state {name!r} must have one number for each {codec.per} of its parameter, {shape}, "
            f"not {tuple(value.shape)}"
        )


def _in_plain_form(value: Tensor, codec: Codec, param: Tensor) -> Tensor:
    """Return a slot's numbers at home in the codec's dtype, or in the one that it is packed from."""
    dtype = _dtype(codec, param)
    if value.dtype == codec.dtype and not isinstance(codec, BlockCodec):
        dtype = codec.dtype
    return _at_home(value, param, dtype)


def _is_home(value: Tensor, param: Tensor) -> bool:
    if value.device != param.device or not is_plain(value):
        return False
    if value.is_contiguous() and param.is_contiguous() and is_plain(param):
        return True
    return order(value) == home_order(param)


def _at_home(value: Tensor, param: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `value` in a dtype and the memory order of the state of `param`; itself, if it is so already."""
    if value.dtype == dtype and _is_home(value, param):
        return value
    return like_home(param, dtype).copy_(value)
