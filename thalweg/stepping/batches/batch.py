"""What all batches are: what they are made of, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.look.look import Look
from thalweg.stepping.member import Member
from thalweg.stepping.rests import Rests
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings
from thalweg.storage.choices import refuse_sparse_means
from thalweg.storage.codecs import BlockCodec

State = dict[Any, dict[str, Any]]


class Making(NamedTuple):
    """What batches are made of beside their members.

    Args:
        firsts: int32, whether a parameter's state is new, by its position.
        unscale: whether gradients carry GradScaler's scale.
        rests: what rows have missed.
    """

    firsts: np.ndarray
    unscale: bool
    rests: Rests


class Batch:
    """What is stepped by one launch.

    Args:
        making: what all batches are made of.
        members: alike in recipe, storage and flags.
    """

    def __init__(self, making: Making, members: list[Member]) -> None:
        self.firsts, self.unscale, self.rests = making
        self.recipe = members[0].sort.recipe
        self.members = members

    def connect(self, look: Look) -> None:
        """Have `look` write where tensors lie, which it will have done before each run."""

    def check(self) -> None:
        """Raise if a gradient names parts of rows, where state is kept by row or in blocks that lie in rows.

        All batches are asked before anything of any of them is changed.
        """
        for member in self.members:
            grad, sort = member.grad, member.sort
            if grad is None or grad.layout != torch.sparse_coo:
                continue
            per = None if sort.mean is None else sort.mean.per
            refuse_sparse_means(self.recipe, sort.options, per, grad.sparse_dim())
            if grad.sparse_dim() == 1:
                continue
            if any(isinstance(codec, BlockCodec) for codec in sort.codecs.values()):
                raise ValueError(
                    f"state='int8' began with gradients that index 1 dimension, not {grad.sparse_dim()}: its "
                    "blocks lie in rows"
                )

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:
        """Step what has a gradient.

        Args:
            settings: of the groups.
            scaling: GradScaler's.
            state: the optimizer's.
        """
        raise NotImplementedError

    def measure(self, stage: str, settings: AllSettings, scaling: Scaling, state: State) -> None:
        """Take the measures of a stage, a sum for each member. Nothing is changed.

        Args:
            stage: a stage of the recipe.
            settings: of the groups.
            scaling: GradScaler's.
            state: the optimizer's.
        """
        raise NotImplementedError

    def total(self, name: str) -> Tensor | float:
        """Return the sum of a measure over all members; a tensor where to know it would be to wait."""
        raise NotImplementedError

    def measured_by(self, names: Sequence[str]) -> Tensor:
        """Return what was measured, float64 (members, names) on the host; 0 of what nobody measures here."""
        raise NotImplementedError

    def take_measured(self, names: Sequence[str], values: Tensor) -> None:
        """Have members read `values`, as `measured_by` returns them, for their measures."""
        raise NotImplementedError

    def share(self, name: str, total: Tensor | float) -> None:
        """Have all members read `total` for a measure."""
        raise NotImplementedError

    def sum_of(self, name: str, places: Sequence[int]) -> Tensor:
        """Return the sum of a measure over the members at some places, 0-dim."""
        raise NotImplementedError

    def has_drawing(self) -> set[int]:
        """Return the indices of the groups in which something is rounded by random words in this step."""
        return {m.sort.group for m in self.members if m.sort.draws and m.grad is not None}
