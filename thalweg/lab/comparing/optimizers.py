"""Every optimizer of a comparison, built as it will be, before the first run: slips are told at once."""

from collections.abc import Sequence

from torch import nn

from thalweg.lab.running.training import Training
from thalweg.lab.spaces import Space
from thalweg.lab.spaces.search import points
from thalweg.lab.study.record import plain
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.lazy import settled
from thalweg.lab.workload.tasks.errors import brief_error

SEED = 0


def try_all(workload: Workload, spaces: Sequence[Space], trials: int, seed: int) -> None:
    """Builds each of the optimizers with the settings that its first trials have.

    Where the model is inside a function of the user's, it is only seen whether the settings can be kept.

    Raises:
        ValueError: one of them cannot be built, or its settings cannot be kept; all that is wrong is told.
    """
    wrong = []
    with chance.left_alone():
        model = _model(workload)
        for space in spaces:
            changed = space.applied(workload)
            own = _model(changed) if space.changes else model
            wrong += _wrong(changed, own, space, trials, seed)
    if wrong:
        raise ValueError("; ".join(wrong))


def _model(workload: Workload) -> nn.Module | None:
    if option(workload, "whole_run") is not None:
        return None
    chance.seed_all(SEED)
    return settled(workload, workload.model(SEED), SEED)


def _wrong(workload: Workload, model: nn.Module | None, space: Space, trials: int, seed: int) -> list[str]:
    for point in points(space.searched(trials), trials, seed):
        try:
            settings = space.settings(point)
            plain(settings)
            if model is not None:
                Training(workload, model, space, settings, SEED)
        except Exception as error:
            return [f"optimizer {space.name}: {space.optimizer} cannot be built: {brief_error(error)}"]
    return []
