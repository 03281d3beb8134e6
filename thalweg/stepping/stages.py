"""The measures of a step: passes that only read, one stage after the other, before anything is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.rule.measure import STAGES
from thalweg.stepping.batches import Batch
from thalweg.stepping.meshes import Meshes
from thalweg.stepping.parts import Parts
from thalweg.stepping.scaling import Scaling, as_tensor

_GRADIENT, _NONFINITE = "statistics_grad_sq", "statistics_nonfinite"
_UPDATE, _WEIGHTS = "statistics_update_sq", "statistics_weights_sq"
_SIZE = "statistics_size"


Measuring = Callable[[str, Sequence[Batch], Scaling], bool]


class Stages:
    """The stages at which something is measured of some batches; false, if there are none.

    Args:
        batches: the batches of a plan.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        taking = [(stage, [b for b in batches if stage in b.recipe.stages]) for stage in STAGES]
        self.taking = [(stage, taken) for stage, taken in taking if taken]
        """Each stage at which something is measured, and the batches of which."""
        self.skips = {name for batch in batches for name in batch.recipe.skips}
        """What forbids a step, unless it is zero."""
        self._meshes = {stage: Meshes(taken) for stage, taken in self.taking}
        self._counted = [batch for batch in batches if _GRADIENT in _names(batch)]
        self.refused: Tensor | float | None = None
        """What forbade the last step, where it is not zero, and nothing else did; None if nothing may."""
        self.parts: Parts | None = None
        """What to ask of the parts of a step before; None, if steps are whole."""

    def __bool__(self) -> bool:
        return bool(self.taking)

    def take(self, scaling: Scaling, measure: Measuring) -> Scaling | None:
        """Take all measures, also of a step that one of them forbids: statistics are of the last one.

        Args:
            scaling: GradScaler's.
            measure: takes a stage of some batches, and says whether it could.

        Returns:
            `scaling`; with a `found_inf` of its own, if what was measured may forbid the step. None, if a
            stage could not be taken.
        """
        for stage, batches in self.taking:
            if not measure(stage, batches, scaling):
                return None
            totals = self._share_totals(stage, batches)
            if stage == "gradient":
                scaling = self.after(scaling, totals)
        return scaling

    @property
    def are_shared(self) -> bool:
        """Whether what is measured here is not all: processes, or parts of a step, have the rest."""
        return self.parts is not None or any(self._meshes.values())

    def after(self, scaling: Scaling, totals: Mapping[str, Any]) -> Scaling:
        """Return what `take` does, of measures that were taken and shared.

        Args:
            scaling: GradScaler's.
            totals: the sums over all parameters, by measure.
        """
        if not self.skips:
            return scaling
        return self._refuse(scaling, _sum([totals[name] for name in sorted(self.skips)]))

    @staticmethod
    def asking(stage: str, batches: Sequence[Batch]) -> dict[str, list[Batch]]:
        """Return the measures of a stage that are summed over all parameters, and the batches that ask."""
        asked: dict[str, list[Batch]] = {}
        for batch in batches:
            for one in batch.recipe.measures:
                if one.at == stage and one.over == "all":
                    asked.setdefault(one.name, []).append(batch)
        return asked

    def _refuse(self, scaling: Scaling, found: Any) -> Scaling:
        """Return a scaling that has overflowed too if `found` is not zero."""
        self.refused = found
        if scaling.found_inf is None:
            return Scaling(scaling.scale, _as_flag(found))
        known = as_tensor(scaling.found_inf).float()
        if isinstance(found, Tensor):
            known = known.to(found.device, non_blocking=True)
        self.refused = found * (known == 0)
        return Scaling(scaling.scale, known + _as_flag(found))

    def by_group(self, groups: int) -> list[dict[str, Tensor]]:
        """Return the statistics that the groups asked for, as 0-dim tensors; nothing is waited for.

        Args:
            groups: how many there are.
        """
        sums: list[dict[str, Any]] = [{} for _ in range(groups)]
        for batch in self._counted:
            index = [member.sort.group for member in batch.members]
            for group in set(index):
                places = [i for i, one in enumerate(index) if one == group]
                for name in (_GRADIENT, _NONFINITE, _UPDATE, _WEIGHTS, _SIZE):
                    own = batch.sum_of(name, places)
                    before = sums[group].get(name)
                    sums[group][name] = own if before is None else before + own.to(before.device)
        return [_statistics(one) if one else {} for one in sums]

    def _share_totals(self, stage: str, batches: Sequence[Batch]) -> dict[str, Tensor | float]:
        """Add up what is measured over all parameters, in the order of the batches, and all processes."""
        asked = self.asking(stage, batches)
        totals: dict[str, Tensor | float] = {}
        if self._meshes[stage]:
            names = {one.name for batch in batches for one in batch.recipe.measures if one.at == stage}
            whole = self._meshes[stage].complete(batches, sorted(names))
            totals |= {name: whole[name] for name in asked}
        else:
            totals |= {name: _sum([b.total(name) for b in asking]) for name, asking in asked.items()}
        if self.parts is not None:
            totals = {name: self.parts.over_all(name, found) for name, found in totals.items()}
        for name, asking in asked.items():
            for batch in asking:
                batch.share(name, totals[name])
        return totals


def _sum(parts: Sequence[Tensor | float]) -> Tensor | float:
    """Add numbers, which may lie on several devices; those of the host alone stay there."""
    home = next((part.device for part in parts if isinstance(part, Tensor)), None)
    whole: Any = parts[0]
    for part in parts[1:]:
        moved = part.to(home, non_blocking=True) if isinstance(part, Tensor) else part
        whole = whole + moved
    return whole


def _as_flag(found: Any) -> Any:
    return (found > 0).to(torch.float32) if isinstance(found, Tensor) else float(found > 0)


def _names(batch: Batch) -> set[str]:
    return {one.name for one in batch.recipe.measures}


def _statistics(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "grad_norm": sums[_GRADIENT].sqrt(),
        "nonfinite": sums[_NONFINITE],
        "update_rms": (sums[_UPDATE] / sums[_SIZE]).sqrt(),
        "weight_rms": (sums[_WEIGHTS] / sums[_SIZE]).sqrt(),
    }
