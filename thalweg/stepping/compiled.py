"""Batches of the CPU that are stepped in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.cpu import update
from thalweg.lowering.cpu.gather import Total
from thalweg.lowering.look.look import Look
from thalweg.stepping.batches import Batch, DenseBatch, State
from thalweg.stepping.engines import CpuEngine
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings, Groups
from thalweg.stepping.stages import Stages


class Compiled:
    """Batches of the CPU one after the other, in one call.

    Args:
        batches: whose tensors are all plain memory.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._measuring: dict[str, cpu.Run] = {}
        self._update: update.Update | None = None
        self._totals: list[tuple[str, Total]] = []
        self._ready = [(b.chunks, b.engine.prepare) for b in batches]  # type: ignore[attr-defined]
        for batch in batches:
            batch.engine.launched.divide(batch.chunks)  # type: ignore[attr-defined]
        self._run = cpu.Run([b.engine.launched for b in batches])  # type: ignore[attr-defined]

    def prepare(self, settings: AllSettings, scaling: Scaling) -> None:
        """Make ready what a step reads."""
        for chunks, prepare in self._ready:
            prepare(chunks, settings, scaling)

    def run(self, settings: AllSettings, scaling: Scaling, state: State) -> None:
        """Step, as a batch does."""
        self.prepare(settings, scaling)
        self._run()

    def run_after(self, look: Look, groups: Groups, state: State) -> int:
        """Look, and step if nothing has changed: return the bits of what has."""
        return _after(self._run, look, groups, state)

    def update_after(
        self,
        look: Look,
        groups: Groups,
        state: State,
        stages: Stages,
        settings: AllSettings,
        scaling: Scaling,
    ) -> tuple[int, dict[str, float]]:
        """Look, and if nothing has changed take all measures and step, in one call.

        Returns:
            The bits of what has changed, or that the step was refused, and the sums over all parameters.
        """
        for stage, batches in stages.taking:
            self._prepare(stage, batches, settings, scaling)
        self.prepare(settings, scaling)
        if self._update is None:
            self._update = update.Update([self._stage(stages, *one) for one in stages.taking], self._run)
        seen = _after(self._update, look, groups, state)
        return seen, {name: total.value for name, total in self._totals}

    def _stage(self, stages: Stages, stage: str, batches: Sequence[Any]) -> update.Stage:
        totals = {
            name: Total([batch.engine.measured_in(name) for batch in asking])  # type: ignore[attr-defined]
            for name, asking in stages.asking(stage, batches).items()
        }
        self._totals += totals.items()
        skips = [total for name, total in totals.items() if name in stages.skips]
        return update.Stage([batch.engine.launch_of(stage) for batch in batches], [*totals.values()], skips)

    @staticmethod
    def _prepare(stage: str, batches: Sequence[Any], settings: AllSettings, scaling: Scaling) -> None:
        for batch in batches:
            batch.engine.prepare_stage(stage, batch.measured, settings, scaling)

    def measure_after(
        self,
        look: Look,
        groups: Groups,
        state: State,
        stage: str,
        batches: Sequence[Any],
        settings: AllSettings,
        scaling: Scaling,
    ) -> int:
        """Look, and if nothing has changed take the measures of a stage, in one call."""
        self._prepare(stage, batches, settings, scaling)
        if stage not in self._measuring:
            self._measuring[stage] = cpu.Run([batch.engine.launch_of(stage) for batch in batches])
        seen = _after(self._measuring[stage], look, groups, state)
        for batch in batches if not seen else ():
            batch.engine.launch_of(stage).gather()
        return seen


def _after(run: cpu.Run | update.Update, look: Look, groups: Groups, state: State) -> int:
    kept = _all_tensors(groups, state) if run.is_long else None
    seen = run.after(look, groups, state)
    del kept
    return seen


def _all_tensors(groups: Groups, state: State) -> list[Any]:
    """Return what must not be freed while it is stepped, whatever other threads do."""
    params = [param for group in groups for param in group["params"]]
    return [params, [param.grad for param in params], values(state)]


def values(state: State) -> list[Any]:
    """Return all that state holds, parameter by parameter."""
    return [list(own.values()) for own in state.values() if isinstance(own, dict)]


def together(batches: Sequence[Batch]) -> Any:
    """Yield the batches in order, those that need nothing of Python's in one."""
    for is_bare, some in groupby(batches, _is_bare):
        if is_bare:
            yield Compiled(list(some))
        else:
            yield from some


def _is_bare(batch: Batch) -> bool:
    return isinstance(batch, DenseBatch) and isinstance(batch.engine, CpuEngine)
