"""The plan: which tensors are stepped together, and whether they are still what it was made for.

A step's parameters are divided into batches that one kernel launch can run: same device, storage and flags,
across parameter groups. A plan stays for as long as parameters, gradients, state and flags stay alike, which
`Plan.look` finds out at every step, before anything is changed. Gradients may be missing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.lowering.cpu.update import REFUSED
from thalweg.lowering.look.look import Look, Row, Seen, is_watched
from thalweg.stepping.batches import (
    Batch,
    DenseBatch,
    KernelBatch,
    Making,
    ReferenceBatch,
    SparseBatch,
    StagedBatch,
    State,
)
from thalweg.stepping.compiled import Compiled, together, values
from thalweg.stepping.engines import CpuEngine, engine_for
from thalweg.stepping.member import Gradient, Member, Sort
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings, Groups
from thalweg.stepping.stages import Stages
from thalweg.storage.codecs import codec_of
from thalweg.storage.codecs.means import ROW, TENSOR
from thalweg.storage.layout import span


class Plan:
    """The batches of a step.

    Args:
        making: what batches are made of.
        members: the parameters that have gradients, or have had some.
        idle: those that have had none yet.
        settings: of the groups.
    """

    def __init__(
        self, making: Making, members: Sequence[Member], idle: Sequence[Tensor], settings: AllSettings
    ) -> None:
        self.settings = settings
        self._look: Look | None = None
        self.members = list(members)
        self._count = len(members)
        self.unscale = making.unscale
        self.is_differentiable = any(member.sort.is_differentiable for member in members)
        kind_of = {sort: _kind(sort) for sort in {member.sort for member in members}}
        self._kinds = [kind_of[member.sort] for member in members]
        self._kernels = [i for i, kind in enumerate(self._kinds) if kind is not ReferenceBatch]
        self._sizes = [_bytes(members[i]) for i in self._kernels]
        self.gradients = {id(member.param): member.sort.gradient for member in members}
        """What it was made for, by the ids of the parameters."""
        self._layers = self._find_layers()
        divided: dict[Any, list[Member]] = {}
        for member, kind, layer in zip(members, self._kinds, self._layers, strict=True):
            key = (kind, layer, member.sort.alike)
            divided.setdefault(key, []).append(member)
        in_layers = sorted(divided.items(), key=lambda item: item[0][1])
        self.batches = [key[0](making, batch) for key, batch in in_layers]
        self._parts = list(together(self.batches))
        self.skips = all(isinstance(b, KernelBatch) and b.engine.skips for b in self.batches)
        """Whether all of it asks on its device whether gradients overflowed."""
        self.stages = Stages(self.batches)
        """What it measures before a step."""
        self.is_bare = all(isinstance(part, Compiled) for part in self._parts)
        """Whether no operation of torch's takes part."""
        self._drawing = {member.sort.group for member in members if member.sort.draws}
        self._others = [members[i] for i, kind in enumerate(self._kinds) if kind is ReferenceBatch]
        self._hidden = [param for param in idle if not is_watched(param)]
        self.watched = [id(members[i].param) for i in self._kernels]
        """The ids of the parameters that are looked at."""
        self.watched += [id(param) for param in idle if is_watched(param)]
        self._shards = [members[i].param for i in self._kernels if members[i].sort.is_shard]
        self.has_shards = any(member.sort.is_shard for member in members)
        """Whether processes share some of it."""
        self._must_compare_places = True
        self.owner: object = None
        """Whose plan it is."""
        self.thread: int | None = None
        """The only thread that may run it, if it may be handed on, which happens there."""

    @property
    def seen(self) -> Look | None:
        """What the plan was made for, if all of it could be noted."""
        return self._look

    def connect(self, look: Look, state: State) -> None:
        """Watch what kernels step, from now on."""
        self._known_state = self._others_state(state)
        for batch in self.batches:
            batch.connect(look)
        self._look = look
        self._param_rows = [look.row(self.members[i].param) for i in self._kernels]
        self._must_compare_places = False

    @property
    def can_be_handed_on(self) -> bool:
        """Whether it depends on nothing but what is looked at and written anew by `take_over`."""
        rest = self.stages or self._drawing or self._others or self._hidden or self.unscale
        bare = self.is_bare and not (rest or self.has_shards)
        return bare and self._look is not None and not any(self._layers) and len(self._kernels) > 0

    def prepare_to_be_handed_on(self) -> None:
        """Forget the parameters: who makes a plan must not keep them from being freed."""
        self.thread = threading.get_ident()
        self.codecs = [(member.sort.on, member.sort.codecs) for member in self.members]
        for batch in self.batches:
            batch.members = []
        self.members, self.gradients = [], {}

    def prepare_to_take_over(self) -> None:
        """Do what may fail, or be interrupted, before anything of the new owner's is there."""
        self.owner = None
        for batch in self.batches:
            batch.engine.launched.ask_for_kernel()

    def take_over(
        self,
        owner: object,
        groups: Groups,
        state: State,
        params: Sequence[Tensor],
        settings: AllSettings,
        firsts: np.ndarray,
    ) -> bool:
        """Become the plan of another optimizer; say whether that could be done."""
        assert self._look is not None, "can_be_handed_on"
        if self._look.take_over(groups, state, params) & Seen.OTHER or any(self._find_layers()):
            return False
        for batch in self.batches:
            batch.engine.launched.count_in(firsts)
        self.settings, self.owner = settings, owner
        return True

    def release(self) -> None:
        """Let go of what the last owner has, who is no more."""
        if self._look is not None:
            self._look.release()

    def is_of(self, owner: object) -> bool:
        """Say whether it is the plan of `owner`, and may be run here."""
        return self.owner is owner and (self.thread is None or self.thread == threading.get_ident())

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

    def drawing(self) -> list[int]:
        """Return the indices of the groups in which something is rounded by random words in this step."""
        if not self._drawing or (self._look is not None and not self._look.absent and not self._others):
            return sorted(self._drawing)
        return sorted(set().union(*(batch.has_drawing() for batch in self.batches)))

    @property
    def can_be_repeated(self) -> bool:
        """Whether the next step, if nothing has changed, is this one again and nothing else."""
        rests = self._drawing or self._others or self._hidden or self.settings.must_be_read
        return self.is_bare and self._look is not None and not rests

    def run_if_same(self, groups: Groups, state: State, scaling: Scaling | None = None) -> bool:
        """Look, and step everything if nothing has changed, in one call; say whether that was so.

        Args:
            groups: the groups.
            state: the state.
            scaling: what is to be read anew of GradScaler and of the settings; nothing, if None.
        """
        if not self._parts:
            return self._look is None or not self._look.again(groups, state)
        (part,) = self._parts
        if scaling is not None:
            part.prepare(self.settings, scaling)
        assert self._look is not None, "a plan that is bare is looked at"
        return self._is_same(part.run_after(self._look, groups, state))

    def _is_same(self, seen: int) -> bool:
        if seen:
            self._must_compare_places = True
        return not seen

    def measure_and_run_if_same(self, groups: Groups, state: State, scaling: Scaling) -> Scaling | None:
        """Do what `run` does, of a plan that is bare; None, if something has changed meanwhile."""
        if not self.stages:
            return scaling if self.run_if_same(groups, state, scaling) else None
        if self.stages.are_shared:
            return self._measure_together(groups, state, scaling)
        (part,) = self._parts
        seen, totals = part.update_after(self._look, groups, state, self.stages, self.settings, scaling)
        return self.stages.after(scaling, totals) if seen == REFUSED or self._is_same(seen) else None

    def _measure_together(self, groups: Groups, state: State, scaling: Scaling) -> Scaling | None:
        """Do so where what is measured is put together with what others measure."""

        def measure(stage: str, batches: Sequence[Batch], scaling: Scaling) -> bool:
            (part,) = self._parts
            seen = part.measure_after(self._look, groups, state, stage, batches, self.settings, scaling)
            return self._is_same(seen)

        found = self.stages.take(scaling, measure)
        if found is None or found.overflowed_on_host:
            return found
        return found if self.run_if_same(groups, state, found) else None

    def run(self, scaling: Scaling, state: State) -> Scaling:
        """Step everything that has been looked at, unless `scaling` or a measure forbids it.

        Args:
            scaling: GradScaler's; its scale is there if the plan was made with `unscale`.
            state: the optimizer's.

        Returns:
            `scaling`, or what it is with what measures have to say: who has overflowed was not stepped.
        """
        # What another thread takes away meanwhile stays alive as long as it is stepped.
        kept = [[m.param.grad for m in self.members], values(state)]
        for batch in self.batches:
            batch.check()
        if self.stages:
            scaling = self._measured(scaling, state)
        if not self.is_forbidden(scaling):
            for part in self._parts:
                part.run(self.settings, scaling, state)
        del kept
        return scaling

    def is_forbidden(self, scaling: Scaling) -> bool:
        """Say whether a step must not be taken, as far as the host has to know."""
        return scaling.overflowed_on_host if self.skips else scaling.overflowed

    def _measured(self, scaling: Scaling, state: State) -> Scaling:
        def measure(stage: str, batches: Sequence[Batch], scaling: Scaling) -> bool:
            for batch in batches:
                batch.measure(stage, self.settings, scaling, state)
            return True

        found = self.stages.take(scaling, measure)
        assert found is not None, "nothing hinders it"
        return found

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


def _kind(sort: Sort) -> type[Batch]:
    """Return the way that the gradients of a sort go."""
    grad, engine = sort.gradient, engine_for(sort.device)
    has_kernel = (
        engine is not None
        and sort.has_memory
        and grad.has_memory
        and grad.device == sort.device
        and not sort.is_differentiable
        and all(engine.supports(codec) for codec in (codec_of(grad.dtype), *sort.codecs.values()))
    )
    # Only the host knows how long rows have rested, and a device may skip steps without telling it.
    rests_apart = grad.is_sparse and sort.recipe.catches_up and sort.device.type != "cpu"
    has_means_elsewhere = sort.mean is not None and not _has_kernel_of_means(sort)
    is_elsewhere = sort.is_shard and not _has_kernel_of_shards(sort)
    if not has_kernel or rests_apart or has_means_elsewhere or is_elsewhere:
        return ReferenceBatch
    if grad.is_sparse:
        return SparseBatch
    return DenseBatch if grad.is_dense and sort.is_contiguous and not sort.dtype.is_complex else StagedBatch


def _has_kernel_of_means(sort: Sort) -> bool:
    """Say whether what has one number lies in one piece, which kernels go over twice; columns do not.

    One thread goes over a piece, which may be a whole tensor, but not one program of a GPU.
    """
    assert sort.mean is not None, "the caller has asked"
    if sort.mean.per == ROW:
        return sort.gradient.is_sparse or sort.has_rows
    return sort.mean.per == TENSOR and engine_for(sort.device) is CpuEngine


def _has_kernel_of_shards(sort: Sort) -> bool:
    """Say whether parts of DTensors are stepped by kernels; random words ask for neighbours in the whole."""
    return engine_for(sort.device) is CpuEngine and (sort.is_contiguous or not sort.draws)
