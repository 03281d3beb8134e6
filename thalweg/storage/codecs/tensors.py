"""Packing torch tensors: the reference of what the kernels do on the way, and the way in and out."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.storage.codecs.blocks import BLOCK, BlockCodec
from thalweg.storage.codecs.draws import nearest
from thalweg.storage.codecs.halves import HalfCodec
from thalweg.storage.codecs.plain import Codec


def side_shape(codec: Codec, main: Tensor) -> tuple[int, ...]:
    """Return the shape of the side tensor: a scale for each block, or a correction for each element."""
    return (-(-main.numel() // BLOCK),) if isinstance(codec, BlockCodec) else tuple(main.shape)


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view of one dimension of a tensor that fills its memory: the elements as they lie there."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def unpack(codec: Codec, main: Tensor, side: Tensor | None) -> Tensor:
    """Return the values of a stored tensor in the compute dtype, laid out as `main` is.

    Args:
        codec: its codec.
        main: the stored tensor; where there are blocks, it fills its memory.
        side: its second tensor, if the codec has one.
    """
    if isinstance(codec, BlockCodec):
        assert side is not None
        new = torch.empty_like(main, dtype=codec.compute)
        scale = _as_integers(side).to(torch.int32).repeat_interleave(BLOCK)[: main.numel()]
        in_memory_order(new).copy_(codec.decode(in_memory_order(main).to(torch.int32), scale))
        return new
    if isinstance(codec, HalfCodec) and side is not None:
        return codec.decode(main.to(codec.compute), side.to(torch.int32))
    return main.to(codec.compute)


def pack(codec: Codec, values: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return how values are stored: the main tensor, laid out as they are, and the side tensor, if any.

    Args:
        codec: the codec.
        values: float32; where there are blocks, they fill their memory.
        words: int32, of the shape of `values`, to round by; to nearest, if None.
    """
    if isinstance(codec, BlockCodec):
        main = torch.empty_like(values, dtype=codec.dtype)
        drawn = None if words is None else in_memory_order(words)
        codes, scales = _pack_blocks(codec, in_memory_order(values), drawn)
        in_memory_order(main).copy_(codes)
        return main, scales
    if words is None:
        words = torch.full_like(values, nearest(codec.drawn) if codec.drawn else 0, dtype=torch.int32)
    if isinstance(codec, HalfCodec):
        number, distance = codec.encode(values, words)
        side = None if codec.side is None else distance.to(codec.side)
        return number.to(codec.dtype), side
    return values.to(codec.dtype), None


def _pack_blocks(codec: BlockCodec, values: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
    rest = -len(values) % BLOCK
    ranks = [torch.nn.functional.pad(rank, (0, rest)).view(-1, BLOCK) for rank in codec.ranks(values)]
    some = len(values) > 0
    anchors = codec.anchor(*(r.amax(1) for r in ranks)) if some else ranks[0].new_zeros(0)
    words = codec.nearest(anchors).repeat_interleave(BLOCK)[: len(values)] if words is None else words
    codes = codec.encode(values, anchors.repeat_interleave(BLOCK)[: len(values)], words)
    return codes.to(codec.dtype), _as_stored(codec.scale(anchors), codec)


def _as_integers(scales: Tensor) -> Tensor:
    """Return scales as the integers that a codec has them as: those of 16 bits are in a bfloat16."""
    return scales.view(torch.int16) if scales.dtype == torch.bfloat16 else scales


def _as_stored(scales: Tensor, codec: BlockCodec) -> Tensor:
    stored = codec.side
    return scales.to(torch.int16).view(stored) if stored == torch.bfloat16 else scales.to(stored)
