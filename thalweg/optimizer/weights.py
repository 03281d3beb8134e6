"""Weights with their corrections: read and set in full precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.distributed.parts import brought, cut, dtensor_like, is_dtensor, part_of
from thalweg.optimizer.saving import State
from thalweg.stepping.shards import is_stepped_in_shards
from thalweg.storage import choices as storage
from thalweg.storage.codecs.tensors import pack, unpack
from thalweg.storage.layout import like_home


def full_weights(param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """Return the values of a parameter with its correction, float32 if it is of 16 bits."""
    codec = storage.codec_of_weights(param, group)
    value = param.detach()
    if value.is_complex() or codec.compute == value.dtype:
        return value.clone()
    correction: Any = state.get(storage.CORRECTION)
    if is_stepped_in_shards(param, group):
        return dtensor_like(param, unpack(codec, part_of(value), part_of(correction)))
    return unpack(codec, value, correction)


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
    in_parts = is_stepped_in_shards(param, group)
    memory: Tensor = part_of(param) if in_parts else param
    if in_parts:
        weights = part_of(brought(weights, param)) if is_dtensor(weights) else cut(weights, param)
    if codec.side is None:
        memory.copy_(weights)
        return
    main, side = pack(codec, like_home(memory, codec.compute).copy_(weights))
    assert side is not None, "the codec has one"
    memory.copy_(main)
    state[param][storage.CORRECTION] = dtensor_like(param, side) if in_parts else side
