"""Which codec each tensor has: what a group asks for, and what stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any, TypedDict

import torch
from torch import Tensor

from thalweg.distributed.parts import blocks_shape, is_dtensor
from thalweg.rule import Recipe, Slot
from thalweg.storage.codecs import (
    BLOCK,
    BLOCK8,
    FLOAT32,
    IN_BLOCKS,
    MEANS,
    STATE,
    BlockCodec,
    Codec,
    MeanCodec,
    RatioCodec,
    WindowCodec,
    codec_of,
    mean_codec,
    slot_codec,
    state_dtype,
    weight_codec,
)
from thalweg.storage.codecs.means import ROW
from thalweg.storage.layout import has_memory, has_shard

SMALL = 4096
"""State of parameters with fewer elements stays float32: they are many, and weigh nothing."""

EVERYWHERE = (*STATE, BLOCK8)
"""What `state=` may say of any slot."""

WEIGHT_BITS = (None, 16, 24, 32)
"""What `weight_bits=` may say."""

CORRECTION = "weight_correction"
"""The key in `optimizer.state[p]` of what `weight_bits` keeps beside a parameter."""


class Storage(TypedDict, total=False):
    """The arguments of every optimizer that say how state and weights are stored.

    Attributes:
        state: how slots are stored: `"float32"` (default), `"bfloat16"` (2 bytes an element), `"int8"` (66/64
            bytes, or 65/64 for slots that may be negative and are not taken over the root of another) or
            `"block8"` (65/64 bytes, coarser and somewhat faster), or a dict from slots' names to these, where
            a slot that is not named is float32; a second moment may be `"row"`, `"column"` or `"tensor"`
            there: one number for each row, each column or the whole, the mean over it (SlimAdam, arXiv
            2503.01843). Rounding is stochastic. State of parameters with fewer than 4,096 elements, of
            float64 and complex ones and of tensor subclasses stays as it is (but float64 ones can be means,
            and vectors cannot), and with sparse gradients or beside `"row"` what is in blocks needs
            rows whose length is a multiple of 64.
        weight_bits: of bfloat16 and float16 parameters: None (default), rounded to nearest; 16, rounded
            stochastically; 24 or 32, with a correction of 8 or 16 bits held as state, which for 32 makes
            them float32 weights exactly. Other parameters have their full precision anyway, and
            ignore it.
        seed: of stochastic rounding, an int from 0 (default) to 2^63 - 1.
    """

    state: str | Mapping[str, str]
    weight_bits: int | None
    seed: int


DEFAULTS: dict[str, Any] = {"state": "float32", "weight_bits": None, "seed": 0, "rounding_step": 0}
"""The group's keys, with their defaults. `rounding_step` counts the steps that have drawn random bits.

A group has all of them or none, which means the defaults: groups and checkpoints that ask for nothing have
torch's keys and no others, as torch's tools expect.
"""

_CODES: dict[type[BlockCodec], str] = {
    BlockCodec: "_codes",
    WindowCodec: "_windows",
    RatioCodec: "_ratios",
}
_ENDINGS = (*_CODES.values(), *MEANS.values())

_STORED = "_state"
"""How a key ends that says how a slot of an addition is stored; what is rounded there is drawn for too."""

_PACKED = frozenset(STATE) - {DEFAULTS["state"]}

CHOICES = ("state", "weight_bits")
"""Keys that say how something is stored, and not what was trained: a checkpoint does not change them."""


def settle(group: MutableMapping[str, Any]) -> None:
    """Have `group` name all of `DEFAULTS`, or none of them if it asks for nothing else."""
    is_asked = any(map(_asks, group.items()))
    if not is_asked and not DEFAULTS.keys() & group.keys():
        return
    if not is_asked and all(
        _is_default(name, group.get(name, default)) for name, default in DEFAULTS.items()
    ):
        for name in DEFAULTS:
            group.pop(name, None)
        return
    for name, default in DEFAULTS.items():
        group.setdefault(name, default)


def _asks(entry: tuple[Any, Any]) -> bool:
    """Say whether an entry of a group wants a slot of an addition stored in fewer bytes."""
    key, value = entry
    return isinstance(key, str) and key.endswith(_STORED) and isinstance(value, str) and value in _PACKED


def _is_default(name: str, value: Any) -> bool:
    # A tensor has counted on a GPU; to look at it would wait for it.
    return not isinstance(value, Tensor) and bool(value == DEFAULTS[name])


def check(recipe: Recipe, group: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError, naming argument, value and what is allowed."""
    group = {**DEFAULTS, **group}
    _check_state(recipe, group)
    if not any(group["weight_bits"] is bits or group["weight_bits"] == bits for bits in WEIGHT_BITS):
        raise ValueError(f"weight_bits must be None, 16, 24 or 32, not {group['weight_bits']!r}")
    for name in ("seed", "rounding_step"):
        value = group[name]
        if name == "rounding_step" and isinstance(value, Tensor):
            continue  # counted on a GPU, for the sake of a captured graph
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int from 0 to 2**63 - 1, not {value!r}")
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be an int from 0 to 2**63 - 1, not {value!r}")
    if group.get("differentiable") and settings(recipe, group) != settings(recipe, DEFAULTS):
        added = {slot.stored_by: _wanted(slot, group) for slot in recipe.slots if slot.stored_by != "state"}
        asked = {"state": group["state"], "weight_bits": group["weight_bits"], **added}
        needed = {"state": DEFAULTS["state"], "weight_bits": None, **dict.fromkeys(added, DEFAULTS["state"])}
        raise ValueError(
            f"differentiable=True needs {_listed(needed)}, not {_listed(asked)}: rounding has no derivative"
        )


def _listed(values: Mapping[str, Any]) -> str:
    *most, last = (f"{name}={value!r}" for name, value in values.items())
    return f"{', '.join(most)} and {last}"


def _check_state(recipe: Recipe, group: Mapping[str, Any]) -> None:
    state = group["state"]
    allowed = " or ".join(map(repr, EVERYWHERE))
    if isinstance(state, str):
        if state not in EVERYWHERE:
            raise ValueError(f"state must be {allowed}, or a dict of slots to these, not {state!r}")
        return
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be {allowed}, or a dict of slots to these, not {state!r}")
    slots = [slot.name for slot in recipe.slots if slot.stored_by == "state"]
    slot_of = {slot.name: slot for slot in recipe.slots}
    for name, value in state.items():
        if name not in slots:
            raise ValueError(f"state names the slot {name!r}; {recipe.name} has {', '.join(slots) or 'none'}")
        if value in MEANS:
            _check_mean(recipe, slot_of[name], value, group)
        elif value not in EVERYWHERE:
            raise ValueError(f"state[{name!r}] must be {allowed}, not {value!r}")


def _check_mean(recipe: Recipe, slot: Slot, per: str, group: Mapping[str, Any]) -> None:
    """Raise ValueError if a slot cannot be kept as means."""
    said = f"state[{slot.name!r}]={per!r}"
    if slot.maximum_of is not None and group["state"].get(slot.maximum_of) != per:
        raise ValueError(f"{said} needs state[{slot.maximum_of!r}]={per!r}, whose maximum it is")
    if not (slot.squares or slot.maximum_of):
        able = ", ".join(one.name for one in recipe.slots if one.squares) or "none"
        raise ValueError(f"{said} is for second moments; of the slots of {recipe.name} that is {able}")
    if slot.whole_with and group.get(slot.whole_with):
        raise ValueError(f"{said} needs {slot.whole_with}=False: a variance is that of an element")
    if slot.by_row is not None and group.get(slot.by_row) and per != ROW:
        raise ValueError(f"{said} needs {slot.by_row}=False, which keeps it by row")
    rest = recipe.rule.rest
    if recipe.catches_up and rest is not None and (per != ROW or slot.name in rest.needs):
        raise ValueError(f"{said} needs sparse='lazy', not 'exact': an element cannot catch up for its {per}")
    if group.get("differentiable"):
        raise ValueError(f"{said} needs differentiable=False")


def settings(recipe: Recipe, group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what `group` asks for, for all slots and the weights, as something to compare."""
    return (*(_wanted(slot, group) for slot in recipe.slots), _said("weight_bits", group))


def _said(name: str, group: Mapping[str, Any]) -> Any:
    return group.get(name, DEFAULTS[name])


def _wanted(slot: Slot, group: Mapping[str, Any]) -> str:
    if slot.stored_by != "state":
        return str(group.get(slot.stored_by, "float32"))
    state = _said("state", group)
    if isinstance(state, str):
        return state
    followed = None if slot.maximum_of is None else state.get(slot.maximum_of)
    return str(state.get(slot.name, followed if followed in MEANS else "float32"))


def asks_for_means(recipe: Recipe, group: Mapping[str, Any]) -> str | None:
    """Return the words by which a group asks for slots that are kept as means; None, if it does not."""
    for slot in recipe.slots:
        if slot.by_row is not None and group.get(slot.by_row):
            return f"{slot.by_row}=True"
        if _wanted(slot, group) in MEANS:
            return f"state[{slot.name!r}]={_wanted(slot, group)!r}"
    return None


def refuse_sparse_means(recipe: Recipe, group: Mapping[str, Any], per: str | None, dims: int) -> None:
    """Raise ValueError if a sparse gradient names parts of what has one number.

    Args:
        recipe: what the steps of the group are made by.
        group: the group.
        per: what has one number, one of `MEANS`; None, if every element has its own.
        dims: how many dimensions the gradient indexes; 0 if it is dense.
    """
    if per is None or dims == 0 or (per == ROW and dims == 1):
        return
    needs = f"sparse gradients that index 1 dimension, not {dims}" if per == ROW else "dense gradients"
    raise ValueError(f"{asks_for_means(recipe, group)} needs {needs}")


def mean_of(slot: Slot, param: Tensor, group: Mapping[str, Any]) -> str | None:
    """Return what has one number of a slot of `param`, one of `MEANS`; None, if every element has its own."""
    if param.dim() < 2:
        return None
    if slot.by_row is not None and group.get(slot.by_row):
        return ROW
    wanted = _wanted(slot, group)
    return wanted if wanted in MEANS and param.numel() >= SMALL and _is_packable(param) else None


def codecs_of_slots(
    slots: Sequence[Slot], param: Tensor, group: Mapping[str, Any], sparse: int
) -> dict[str, Codec]:
    """Return how slots of `param` are stored, by name.

    Args:
        slots: all that it has.
        param: the parameter.
        group: its group.
        sparse: how many dimensions its gradient indexes; 0 if it is dense.
    """
    in_rows = any(mean_of(slot, param, group) == ROW for slot in slots)
    return {slot.name: _codec_of_slot(slot, param, group, sparse, in_rows) for slot in slots}


def _codec_of_slot(slot: Slot, param: Tensor, group: Mapping[str, Any], sparse: int, in_rows: bool) -> Codec:
    per = mean_of(slot, param, group)
    if per is not None:
        return mean_codec(_slot_codec(param.dtype, "", slot), per)
    may_pack = param.numel() >= SMALL and _is_packable(param)
    wanted = _wanted(slot, group) if may_pack else ""
    if wanted in IN_BLOCKS and sparse and not (sparse == 1 and rows_are_blocks(param)):
        wanted = ""  # a block that lies in two rows would move with either
    if wanted in IN_BLOCKS and (not has_blocks(param) or (in_rows and not rows_are_blocks(param))):
        wanted = "bfloat16"  # of a DTensor, that any mesh may cut; of rows that are stepped one by one
    return _slot_codec(param.dtype, wanted, slot)


def rows_are_blocks(param: Tensor) -> bool:
    """Say whether each row of a parameter, an index of its first dimension, has whole blocks of its state."""
    is_row_major = param.is_contiguous() and not (param.is_conj() or param.is_neg())
    return is_row_major and param.numel() > 0 and param.numel() // param.shape[0] % BLOCK == 0


def has_blocks(param: Tensor) -> bool:
    """Say whether state of a parameter can be in blocks: of a DTensor, where its mesh cuts none."""
    return not is_dtensor(param) or blocks_shape(param, BLOCK) is not None


@cache
def _slot_codec(dtype: torch.dtype, wanted: str, slot: Slot) -> Codec:
    """Return how a slot is stored whose group wants `wanted`, or nothing: then in the way of `dtype`."""
    plain = codec_of(state_dtype(dtype))
    assert plain is not None, "the stepper has refused other dtypes"
    known = wanted in EVERYWHERE and plain is FLOAT32
    return slot_codec(wanted, slot.signed, slot.over) if known else plain


def codec_of_weights(param: Tensor, group: Mapping[str, Any]) -> Codec:
    """Return how `param` is stored."""
    bits = _said("weight_bits", group)
    return _weight_codec(param.dtype, bits if bits is not None and _is_packable(param) else None)


_weight_codec = cache(weight_codec)


def _is_packable(param: Tensor) -> bool:
    return not param.is_complex() and (has_memory(param) or has_shard(param))


def codes_of(name: str, codec: BlockCodec) -> str:
    """Return the key in `optimizer.state[p]` of the codes of a slot in blocks.

    It is not the slot's own: who knows nothing of codes shall miss the slot, and not take them for numbers.
    Nor has it one key for all kinds, which differ in what their scales say: `torch.distributed.checkpoint`
    would put scales of the one into those of the other, and convert their dtype.
    """
    return name + _CODES[type(codec)]


def means_of(name: str, per: str) -> str:
    """Return the key in `optimizer.state[p]` of a slot that is kept as means, which is not its own either."""
    return name + MEANS[per]


def keys_of(name: str) -> tuple[str, ...]:
    """Return the keys under which a slot may lie: its numbers, its codes, its means."""
    return name, *(name + ending for ending in _ENDINGS)


@cache
def slot_of(key: str) -> str:
    """Return the slot whose numbers, codes or means lie under a key of `optimizer.state[p]`."""
    ending = next((ending for ending in _ENDINGS if key.endswith(ending)), "")
    return key.removesuffix(ending)


def key_of(name: str, codec: Codec) -> str:
    """Return the key in `optimizer.state[p]` of a slot that is stored by `codec`."""
    if isinstance(codec, MeanCodec):
        return means_of(name, codec.per)
    return codes_of(name, codec) if isinstance(codec, BlockCodec) else name


def scale_of(name: str) -> str:
    """Return the key in `optimizer.state[p]` of the scales of a slot in blocks."""
    return f"{name}_scale"
