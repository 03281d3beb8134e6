"""Which sort a parameter is of: what it has in common with others that are stepped as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.distributed.parts import part_of
from thalweg.lowering.look.look import is_watched
from thalweg.stepping.member import Gradient, Sort
from thalweg.stepping.settings import AllSettings, Groups
from thalweg.stepping.shards import is_stepped_in_shards
from thalweg.storage.choices import (
    SMALL,
    asks_for_means,
    codec_of_weights,
    codecs_of_slots,
    has_blocks,
    refuse_sparse_means,
    rows_are_blocks,
)
from thalweg.storage.codecs import Codec
from thalweg.storage.layout import has_rows, is_plain


class Sorts:
    """The sorts that parameters are of, each once.

    Args:
        groups: the groups.
        settings: theirs.
        may_look: whether what is memory can be looked at.
    """

    def __init__(self, groups: Groups, settings: AllSettings, may_look: bool) -> None:
        self._groups, self._settings, self._may_look = groups, settings, may_look
        pairs = zip(settings.groups, groups, strict=True)
        self._choices = [one.recipe.choices(group) for one, group in pairs]
        pairs = zip(settings.groups, groups, strict=True)
        self._has_means = [asks_for_means(one.recipe, group) is not None for one, group in pairs]
        self._known: dict[Any, Sort] = {}

    def of(self, param: Tensor, gradient: Gradient, group: int, may_have_memory: bool = True) -> Sort:
        """Return the sort of a parameter with such gradients in the group of that index."""
        has_memory = may_have_memory and self._may_look and is_watched(param)
        is_shard = is_stepped_in_shards(param, self._groups[group])
        part = part_of(param) if is_shard else param
        is_contiguous = param.is_contiguous() and part.is_contiguous() and is_plain(part)
        in_blocks = rows_are_blocks(param) if gradient.is_sparse else has_blocks(param)
        shape: tuple[bool, ...] = ()
        if self._has_means[group] and param.dim() > 1:
            shape = (True, rows_are_blocks(param), has_rows(param))
        kind = (group, param.dtype, param.device, param.numel() >= SMALL, type(param), in_blocks, shape)
        key = (*kind, gradient, has_memory, is_contiguous)
        sort = self._known.get(key)
        if sort is None:
            codecs = self._codecs(param, group, gradient.sparse_dims)
            one, options = self._settings.groups[group], self._groups[group]
            sort = Sort(
                *(one.recipe, gradient, group, one.on, options, self._choices[group]),
                *(is_contiguous, has_memory, codecs, param.dtype, param.device, is_shard),
                has_rows=has_rows(param),
            )
            per = None if sort.mean is None else sort.mean.per
            refuse_sparse_means(one.recipe, options, per, gradient.sparse_dims)
            self._known[key] = sort
        return sort

    def _codecs(self, param: Tensor, group: int, sparse: int) -> dict[str, Codec]:
        options, one = self._groups[group], self._settings.groups[group]
        slots = codecs_of_slots(one.recipe.slots_on(one.on), param, options, sparse)
        return {"p": codec_of_weights(param, options), **slots}
