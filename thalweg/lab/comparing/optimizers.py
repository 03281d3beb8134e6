"""Every optimizer of a comparison, built as it will be, before the first run: slips are told at once."""

from collections.abc import Sequence

from torch import nn

from thalweg.lab.spaces import Space, build
from thalweg.lab.spaces.search import points
from thalweg.lab.study.record import plain
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.lazy import settled
from thalweg.lab.workload.tasks.errors import brief_error


def try_all(workload: Workload, spaces: Sequence[Space], trials: int, seed: int) -> None:
    """Builds each of the optimizers with the settings that its first trials have.

    Raises:
        ValueError: one of them cannot be built, or its settings cannot be kept; all that is wrong is told.
    """
    with chance.left_alone():
        chance.seed_all(0)
        model = settled(workload, workload.model(0), 0)
    wrong = [message for space in spaces if (message := _wrong(model, space, trials, seed))]
    if wrong:
        raise ValueError("; ".join(wrong))


def _wrong(model: nn.Module, space: Space, trials: int, seed: int) -> str:
    for point in points(space.searched(trials), trials, seed):
        try:
            settings = space.settings(point)
            plain(settings)
            build(space.optimizer, model.parameters(), settings)
        except Exception as error:
            return f"optimizer {space.name}: {space.optimizer} cannot be built: {brief_error(error)}"
    return ""
