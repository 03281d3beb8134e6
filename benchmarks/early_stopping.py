"""What does ending hopeless trials save, and what does it cost the search?

Whole searches as `thalweg compare` makes them, extensions of ranges among them, are followed twice through
the same runs, all of which came to their end: once as if none were ended early, once as if every hopeless one
were, the tenth that is finished all the same too. Where the second asks for trials that the first did not,
because an optimizer whose trials were all hopeless is searched below its range, these are run as well.

Of each optimizer in each study, what the one search found best on validation is set beside what the other
did: their difference is the regret, in the metric, positive where the rule did harm.

Run: python benchmarks/early_stopping.py [WORKLOAD ...] [--studies N] [--trials N] [--optimizers NAMES]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch

from thalweg.lab.running import hopeless
from thalweg.lab.running.trial import run
from thalweg.lab.spaces import SPACES, Space
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Failure, Record, Trial
from thalweg.lab.study.study import Margin, Settings, Study, margin_of
from thalweg.lab.workload.shipped import find, kind

WORKLOADS: dict[str, dict[str, Any]] = {
    "digits": {},
    "deep": {},
    "text": {"steps": 100, "evaluate_every": 10},
    "zipf": {},
    "quad": {},
    "rl": {},
}
"""With the options of shorter runs, where whole ones take long."""
TOP = 3
HEAD = (
    "workload",
    "searches",
    "trials",
    "ended",
    "steps saved",
    "best ended",
    "in top 3 ended",
    "regret",
    "margin",
)

Made = dict[str, Record]
View = Callable[[Record], Record]


def to_the_end(trial: Trial, workload: str) -> Record:
    """The record of a whole run in this process, on one thread, which says where it became hopeless."""
    torch.set_num_threads(1)
    hopeless.FINISHED = 1  # one of one
    return run(trial, made(workload), early_stop=True)


@cache
def made(workload: str) -> Any:
    """The workload with its options."""
    options = WORKLOADS.get(workload, {})
    return kind(workload)(**options) if options else find(workload)


def as_it_is(record: Record) -> Record:
    """A record as it is where nothing is ended early."""
    return replace(record, hopeless=None)


def ended(record: Record) -> Record:
    """A record as it is where every hopeless trial is ended."""
    if record.hopeless is None:
        return record
    failure = Failure("ended early", "hopeless", record.hopeless)
    return replace(record, validation=None, failure=failure, hopeless=None)


def searched(study: Study, records: Made, pool: ProcessPoolExecutor, view: View) -> Study:
    """The study with all records of its search; what has not been run yet is added to `records`."""
    while True:
        trials = protocol.follow(study, protocol.SEARCH)
        missing = [trial for trial in trials if trial.key not in records]
        jobs = [pool.submit(to_the_end, trial, study.workload.name) for trial in missing]
        records |= {job.result().trial.key: job.result() for job in jobs}
        found = [view(records[trial.key]) for trial in trials]
        if len(found) == len(study.records):
            return study.holding(found)
        study = study.holding(found)


@dataclass(frozen=True)
class Search:
    """What became of one optimizer's search; `regret` is None where one of the two has no configuration."""

    trials: int
    ended: int
    steps: int
    steps_of_whole: int
    best_ended: bool
    top_ended: bool
    regret: float | None
    best: float


def beside(whole: Study, short: Study, space: Space, records: Made) -> Search:
    """One optimizer's search without and with the rule."""
    best, best_short = (protocol.candidates(study, space)[:1] for study in (whole, short))
    order = sorted(
        (record for record in whole.tuning_of(space) if record.validation),
        key=lambda record: -whole.better(record.validation.metric),
    )
    lost = [records[record.trial.key].hopeless is not None for record in order]
    level = [whole.better(found[0].validation.metric) for found in (best, best_short) if found]
    return Search(
        trials=len(short.tuning_of(space)),
        ended=sum(
            record.failure is not None and record.failure.kind == "ended early"
            for record in short.tuning_of(space)
        ),
        steps=sum(steps_of(record, short) for record in short.tuning_of(space)),
        steps_of_whole=sum(steps_of(record, whole) for record in whole.tuning_of(space)),
        best_ended=any(lost[:1]),
        top_ended=any(lost[:TOP]),
        regret=level[0] - level[1] if best and best_short else None,
        best=best[0].validation.metric if best else float("nan"),
    )


def steps_of(record: Record, study: Study) -> int:
    """The steps that a run took."""
    return study.workload.steps if record.failure is None else record.failure.step


def measure(name: str, options: argparse.Namespace, pool: ProcessPoolExecutor) -> list[str]:
    """One workload's line of the table."""
    workload = made(name)
    spaces = [SPACES[optimizer] for optimizer in options.optimizers.split(",")]
    searches = []
    for seed in range(options.studies):
        begun = Study(workload, Settings(options.trials, margin=Margin(0.0), seed=seed), spaces)
        records = Made()
        whole, short = (searched(begun, records, pool, view) for view in (as_it_is, ended))
        searches += [beside(whole, short, space, records) for space in spaces]
    return line(name, workload, searches)


def line(name: str, workload: Any, searches: list[Search]) -> list[str]:
    """The counts of all searches of a workload as text."""
    trials, gone = (sum(getattr(s, field) for s in searches) for field in ("trials", "ended"))
    regrets = [s.regret for s in searches if s.regret is not None]
    best = [s.best for s in searches if s.best == s.best]
    level = max(best) if workload.higher_is_better else min(best)
    saved = 1 - sum(s.steps for s in searches) / sum(s.steps_of_whole for s in searches)
    return [
        name,
        str(len(searches)),
        str(trials),
        f"{100 * gone / trials:.1f} %",
        f"{100 * saved:.1f} %",
        f"{sum(s.best_ended for s in searches)} of {len(searches)}",
        f"{sum(s.top_ended for s in searches)} of {len(searches)}",
        f"{statistics.fmean(regrets):.3g}, at most {max(regrets):.3g}",
        f"{margin_of(workload).at(level):.2g} {workload.difference_unit}".strip(),
    ]


def main() -> None:
    """Prints a table in Markdown, a line for each workload as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--studies", type=int, default=2)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--optimizers", default="sgd,rmsprop,adamw")
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for name in options.workloads:
            print(f"| {' | '.join(measure(name, options, pool))} |", flush=True)


if __name__ == "__main__":
    main()
