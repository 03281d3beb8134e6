"""The plan: which tensors are stepped together, and how all of them are stepped.

A step's parameters are divided into batches that one kernel launch can run: same device, storage and flags,
across parameter groups. A plan stays for as long as parameters, gradients, state and flags stay alike, which
is found out at every step, before anything is changed (`watched.py`). Gradients may be missing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.lowering.cpu.update import REFUSED
from thalweg.lowering.look.look import Look, Seen
from thalweg.stepping.batches import Batch, KernelBatch, Making, ReferenceBatch, State, batch_for
from thalweg.stepping.compiled import Compiled, together, values
from thalweg.stepping.member import Member
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings, Groups
from thalweg.stepping.stages import Stages
from thalweg.stepping.watched import Watched


class Plan(Watched):
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
        kind_of = {sort: batch_for(sort) for sort in {member.sort for member in members}}
        kinds = [kind_of[member.sort] for member in members]
        super().__init__(members, [i for i, kind in enumerate(kinds) if kind is not ReferenceBatch], idle)
        self.settings = settings
        self.unscale = making.unscale
        self.is_differentiable = any(member.sort.is_differentiable for member in members)
        divided: dict[Any, list[Member]] = {}
        for member, kind, layer in zip(members, kinds, self._layers, strict=True):
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
        self.owner: object = None
        """Whose plan it is."""
        self.thread: int | None = None
        """The only thread that may run it, if it may be handed on, which happens there."""

    def connect(self, look: Look, state: State) -> None:
        """Watch what kernels step, from now on."""
        for batch in self.batches:
            batch.connect(look)
        super().connect(look, state)

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

    def is_of(self, owner: object) -> bool:
        """Say whether it is the plan of `owner`, and may be run here."""
        return self.owner is owner and (self.thread is None or self.thread == threading.get_ident())

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
