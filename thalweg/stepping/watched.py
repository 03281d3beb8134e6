"""What a plan was made for, and whether parameters, gradients and state still are that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.lowering.look.look import Look, Row, Seen, is_watched
from thalweg.stepping.batches import State
from thalweg.stepping.member import Gradient, Member
from thalweg.stepping.settings import Groups
from thalweg.storage.layout import span


class Watched:
    """Parameters that are stepped together, as they were when that was planned.

    Args:
        members: the parameters that have gradients, or have had some.
        kernels: the indices of those that kernels step.
        idle: the parameters that have had none yet.
    """

    def __init__(self, members: Sequence[Member], kernels: Sequence[int], idle: Sequence[Tensor]) -> None:
        self._look: Look | None = None
        self.members = list(members)
        self._count = len(members)
        self._kernels = kernels
        self._sizes = [_bytes(members[i]) for i in kernels]
        self.gradients = {id(member.param): member.sort.gradient for member in members}
        """What it was made for, by the ids of the parameters."""
        self._layers = self._find_layers()
        stepped = set(kernels)
        self._others = [member for i, member in enumerate(members) if i not in stepped]
        self._hidden = [param for param in idle if not is_watched(param)]
        self.watched = [id(members[i].param) for i in kernels]
        """The ids of the parameters that are looked at."""
        self.watched += [id(param) for param in idle if is_watched(param)]
        self._shards = [members[i].param for i in kernels if members[i].sort.is_shard]
        self.has_shards = any(member.sort.is_shard for member in members)
        """Whether processes share some of it."""
        self._must_compare_places = True

    @property
    def seen(self) -> Look | None:
        """What the plan was made for, if all of it could be noted."""
        return self._look

    def connect(self, look: Look, state: State) -> None:
        """Watch what kernels step, from now on."""
        self._known_state = self._others_state(state)
        self._look = look
        self._param_rows = [look.row(self.members[i].param) for i in self._kernels]
        self._must_compare_places = False

    def release(self) -> None:
        """Let go of what the last owner has, who is no more."""
        if self._look is not None:
            self._look.release()

    def follow_gradients(self) -> None:
        """Expect gradients of DTensors that are placed as before, but by other objects that say so."""
        if self._look is not None:
            self._look.follow(self._shards)

    def note_values(self, groups: Groups) -> None:
        """Take the values that groups have now for those that the plan was made for."""
        if self._look is not None:
            self._look.note_values(groups)

    def fits(self, groups: Groups, state: State) -> int:
        """Return the bits of `Seen` of what has changed: with `OTHER` the plan does not fit any more."""
        if self._look is None:
            return Seen.OTHER
        seen = self._look.again(groups, state)
        if seen & Seen.OTHER:
            self._must_compare_places = True
            return Seen.OTHER
        if (seen & Seen.MOVED or self._must_compare_places) and self._find_layers() != self._layers:
            return Seen.OTHER
        self._must_compare_places = False
        return Seen.OTHER if self._is_surprised(state) else seen

    def _is_surprised(self, state: State) -> bool:
        """Say whether what is not looked at has other gradients or state than the plan was made for."""
        if not (self._others or self._hidden):
            return False
        changed = (m.grad is not None and Gradient.of(m.grad) != m.sort.gradient for m in self._others)
        if any(changed) or any(param.grad is not None for param in self._hidden):
            return True
        return self._others_state(state) != self._known_state

    def _others_state(self, state: State) -> list[list[int]]:
        """Return which objects are the state of what the reference steps; to torch others are no danger."""
        return [[*map(id, state.get(m.param, {}).values())] for m in self._others]

    def _is_same(self, seen: int) -> bool:
        if seen:
            self._must_compare_places = True
        return not seen

    def _find_layers(self) -> list[int]:
        """Return 0 for each member, and 1, 2 ... for those that share memory with one before them.

        Threads must not step the same memory at once. Parameters may share it without being the same
        tensor; each is then stepped with its own gradient and state, one after the other, as listed.
        """
        if len(self._kernels) < 2:
            return [0] * self._count
        starts = np.array(self._starts(), np.int64)
        ends = starts + np.array(self._sizes, np.int64)
        order = np.argsort(starts, kind="stable")
        layers = [0] * self._count
        if not (starts[order][1:] < np.maximum.accumulate(ends[order])[:-1]).any():
            return layers
        for place, i in enumerate(self._kernels):
            shared = (starts[:place] < ends[place]) & (starts[place] < ends[:place])
            below = [layers[self._kernels[j]] for j in np.flatnonzero(shared).tolist()]
            layers[i] = 1 + max(below, default=-1)
        return layers

    def _starts(self) -> Any:
        """Return where the memory of each parameter that a kernel steps begins."""
        if self._look is None:
            return [self.members[i].memory.data_ptr() for i in self._kernels]
        return self._look.rows[self._param_rows, Row.DATA]


def _bytes(member: Member) -> int:
    return span(member.memory) * member.param.element_size()
