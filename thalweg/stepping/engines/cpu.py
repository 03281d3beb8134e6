"""The CPU's engine: compiled kernels on torch's threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.spec import Spec
from thalweg.stepping.counters import counter_dtype
from thalweg.stepping.member import Member
from thalweg.stepping.scaling import Scaling
from thalweg.stepping.settings import AllSettings
from thalweg.storage.codecs.draws import keys


class Keys:
    """The keys of the random words of a batch.

    Args:
        members: the members of the batch.
        values: int32 (members,), where to write them.
    """

    def __init__(self, members: Sequence[Member], values: np.ndarray) -> None:
        self._values = values
        self._groups: list[tuple[Mapping[str, Any], np.ndarray, np.ndarray]] = []
        for index in {member.sort.group for member in members if member.sort.draws}:
            places = [i for i, member in enumerate(members) if member.sort.group == index]
            ordinals = np.array([members[i].position for i in places], np.int64)
            self._groups.append((members[places[0]].sort.options, np.array(places), ordinals))

    def draw(self) -> None:
        """Work out the keys of this step, if any are needed."""
        for group, places, ordinals in self._groups:
            self._values[places] = keys(group["seed"], int(group["rounding_step"]), ordinals)


class _Stage(NamedTuple):
    """What measures a stage."""

    launch: cpu.Launch
    run: cpu.Run


class CpuEngine:
    """Compiled kernels on torch's threads; scalars and keys are worked out on the way."""

    skips = False
    supports = staticmethod(cpu.supports)
    chunk = staticmethod(cpu.chunk)
    measured = cpu.MEASURED

    def __init__(
        self, spec: Spec, members: Sequence[Member], addresses: np.ndarray, firsts: np.ndarray
    ) -> None:
        self._recipe = spec.recipe
        self._measured = np.zeros((len(members), len(spec.recipe.measures)))
        self.measures = torch.from_numpy(self._measured)
        common = (
            members[0].sort.choices,
            addresses,
            np.array([member.sort.group for member in members], np.int64),
            np.array([member.position for member in members], np.int64),
            firsts,
            counter_dtype(),
            self._measured,
        )
        self.launched = cpu.Launch(spec, *common)
        self._stages = {
            stage: self._stage(spec._replace(stage=stage, in_parts=False), common)
            for stage in spec.recipe.stages
        }
        self._keys = Keys(members, self.launched.keys)
        self._settings: AllSettings | None = None

    @staticmethod
    def _stage(spec: Spec, common: Any) -> _Stage:
        launch = cpu.Launch(spec, *common)
        return _Stage(launch, cpu.Run([launch]))

    def prepare(self, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:
        """Make ready what a launch reads."""
        self.launched.divide(chunks)
        if settings is not self._settings or scaling.scale is not None:
            self.launched.read(settings.table(self._recipe), scaling.inverse)
            self._settings = settings
        self._keys.draw()

    def measure(self, stage: str, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:  # noqa: D102
        self.prepare_stage(stage, chunks, settings, scaling)
        self._stages[stage].run()
        self._stages[stage].launch.gather()

    def prepare_stage(self, stage: str, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:
        """Make ready what the launch of a stage reads."""
        launch = self._stages[stage].launch
        launch.divide(chunks)
        launch.read(settings.table(self._recipe), scaling.inverse)

    def launch_of(self, stage: str) -> cpu.Launch:
        """Return the launch that measures a stage."""
        return self._stages[stage].launch

    def total(self, name: str) -> float:  # noqa: D102
        # One after the other, as compiled code does.
        return float(np.add.accumulate(self._measured[:, self._recipe.place_of(name)])[-1])

    def measured_in(self, name: str) -> tuple[np.ndarray, int]:
        """Return where measures are written, and the column of one of them."""
        return self._measured, self._recipe.place_of(name)

    def share(self, name: str, total: Tensor | float) -> None:  # noqa: D102
        self._measured[:, self._recipe.place_of(name)] = float(total)

    def launch(self, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:  # noqa: D102
        self.prepare(chunks, settings, scaling)
        self._run()

    @cached_property
    def _run(self) -> cpu.Run:
        return cpu.Run([self.launched])
