"""The protocol of a comparison.

1. Tune: every optimizer gets the same number of trials, each with another learning rate of its own
   range and all with one seed. The trial that is best on the validation split gives the rate.
2. Measure: every optimizer trains at its rate on the same fresh seeds. A seed fixes the initial
   weights and the order of the data, so runs are compared pair by pair. The test split is
   evaluated once, at the end of these runs, and nothing is chosen on it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thalweg.lab.pool import Pool
from thalweg.lab.search import learning_rates
from thalweg.lab.spaces import Space
from thalweg.lab.trial import Record, Trial
from thalweg.lab.workload import Workload


@dataclass(frozen=True)
class Settings:
    """How much is spent, and on what scale the answer is judged.

    Attributes:
        trials: learning rates tried for each optimizer.
        seeds: fresh seeds on which each optimizer is measured.
        margin: the smallest difference of the metric worth having, in the metric's unit.
        seed: from it come the tuning seed, the fresh seeds and the learning rates.
    """

    trials: int = 16
    seeds: int = 20
    margin: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """All that was measured.

    Attributes:
        workload: what was trained.
        settings: how much was spent.
        spaces: the optimizers, in the order they were asked for.
        tuning: the tuning records, optimizer by optimizer.
        final: the final records, optimizer by optimizer; none for one whose trials all diverged.
    """

    workload: Workload
    settings: Settings
    spaces: Sequence[Space]
    tuning: Sequence[Record]
    final: Sequence[Record]

    def tuning_of(self, space: Space) -> list[Record]:
        """The tuning records of one optimizer, from the lowest learning rate to the highest."""
        return sorted(
            (record for record in self.tuning if record.trial.space == space),
            key=lambda record: record.trial.lr,
        )

    def final_of(self, space: Space) -> list[Record]:
        """The final records of one optimizer, in the order of the seeds."""
        return [record for record in self.final if record.trial.space == space]

    def chosen(self, space: Space) -> Record | None:
        """The tuning record whose learning rate was taken; None if every trial diverged."""
        return choose(self.tuning_of(space), self.workload.higher_is_better)

    def on_border(self, space: Space) -> bool:
        """Whether no rate beyond the chosen one was tried, so a better one may lie out there."""
        rates = [record.trial.lr for record in self.tuning_of(space)]
        chosen = self.chosen(space)
        return chosen is not None and chosen.trial.lr in (rates[0], rates[-1])


def seeds(settings: Settings) -> tuple[int, list[int]]:
    """The tuning seed and the fresh seeds: unrelated 32-bit numbers drawn from one seed."""
    first, *rest = np.random.SeedSequence(settings.seed).generate_state(1 + settings.seeds)
    return int(first), [int(seed) for seed in rest]


def choose(records: Iterable[Record], higher_is_better: bool) -> Record | None:
    """The record with the best validation metric; None if all diverged.

    Accuracies are often exactly equal over a range of rates. Of equal ones, the middle rate (the
    lower of two) is taken: it is the least likely to fail on another seed for being on an edge.
    """
    finished = [(r.validation.metric, r) for r in records if r.validation is not None]
    if not finished:
        return None
    best = (max if higher_is_better else min)(metric for metric, _ in finished)
    equal = sorted((r for metric, r in finished if metric == best), key=lambda r: r.trial.lr)
    return equal[(len(equal) - 1) // 2]


def compare(
    workload: Workload,
    spaces: Sequence[Space],
    settings: Settings,
    *,
    pool: Pool,
    done: Callable[[Record], None] = lambda record: None,
) -> Study:
    """Tunes and measures every optimizer of `spaces` on `workload`.

    Args:
        workload: what is trained.
        spaces: the optimizers, all different.
        settings: how much is spent.
        pool: the processes that train; the records do not depend on how many they are.
        done: called as each run ends, in whatever order they do.
    """
    tuning_seed, fresh_seeds = seeds(settings)
    tuning = pool.run(workload, _tuning_trials(spaces, settings, tuning_seed), done)
    tuned = Study(workload, settings, spaces, tuning, final=())
    final = pool.run(workload, _final_trials(tuned, fresh_seeds), done)
    return replace(tuned, final=final)


def _tuning_trials(spaces: Sequence[Space], settings: Settings, seed: int) -> list[Trial]:
    return [
        Trial("tune", space, lr, seed)
        for space in spaces
        for lr in learning_rates(space, settings.trials, settings.seed)
    ]


def _final_trials(tuned: Study, fresh_seeds: Sequence[int]) -> list[Trial]:
    return [
        Trial("final", space, chosen.trial.lr, seed)
        for space in tuned.spaces
        if (chosen := tuned.chosen(space)) is not None
        for seed in fresh_seeds
    ]
