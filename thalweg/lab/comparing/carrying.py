"""A study that was begun, carried out: its runs, and what they make doubtful."""

from collections.abc import Callable, Sequence
from typing import Any

from thalweg.lab.comparing.beginning import Begun
from thalweg.lab.comparing.spending import Options
from thalweg.lab.judging import doubts
from thalweg.lab.running import execution
from thalweg.lab.running.pool import Pool
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Study
from thalweg.lab.workload.errors import Doubt

Watch = Callable[[Study, list[Trial]], Any]
"""Called with the study so far and the trials under way."""


def carry_out(
    study: Study,
    begun: Begun,
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    watch: Watch,
    plan: execution.Plan = protocol.due,
    planned: float = 0.0,
) -> tuple[Study, list[Doubt], bool]:
    """Runs what is left of a study, until nothing is or Ctrl-C ends it; closes the storage.

    Args:
        study: as it was asked for.
        begun: what `begin` gave.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user.
        watch: called with the study so far and the trials under way.
        plan: names the runs; by default those of a comparison.
        planned: the seconds of a run that a budget was spread with.

    Returns:
        The study with its records, what is doubtful, and whether it came to its end.

    Raises:
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    if begun.found:
        say(f"going on from {begun.found} runs that were made before")
    warnings = Warnings(begun.known, say, planned)

    def watched(study: Study, running: list[Trial]) -> None:
        warnings.look(study)
        watch(study, running)

    finished = True
    try:
        study = execution.execute(study, begun.store, pool, plan=plan, limit=options.limit, watch=watched)
    except KeyboardInterrupt:
        finished = False
        study, _ = execution.gather(study, begun.store, plan)
    finally:
        begun.store.close()
    if finished and not study.lost:
        pool.forget_all()
    return study, warnings.of(study), finished


class Warnings:
    """What is doubtful, told as soon as it is known, each once."""

    def __init__(self, known: Sequence[Doubt], say: Callable[[str], Any], planned_seconds: float) -> None:
        self._known, self._say, self._planned = list(known), say, planned_seconds
        self._told: set[str] = set()
        self._records = -1
        self._tell(self._known)

    def look(self, study: Study) -> None:
        """Tells what the records there are make doubtful."""
        if len(study.records) != self._records:
            self._records = len(study.records)
            self._tell(doubts.doubts(study, self._planned))

    def of(self, study: Study) -> list[Doubt]:
        """All of them, for the record."""
        return list(dict.fromkeys([*self._known, *doubts.doubts(study, self._planned)]))

    def _tell(self, found: Sequence[Doubt]) -> None:
        for doubt in found:
            if doubt.kind not in self._told or doubt in self._known:
                self._say(f"warning: {doubt.text}")
        self._told |= {doubt.kind for doubt in found}
