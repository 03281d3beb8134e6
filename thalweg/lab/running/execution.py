"""Runs what a study's protocol asks for, until nothing is left."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from thalweg.lab.running.connecting import HEARTBEAT_SECONDS
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.store import Store
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Study

Plan = Callable[[Study], list[Trial]]
"""Names all runs that the records of a study allow, those made among them, in their order."""

POLL_SECONDS = 1.0
"""How long to wait before looking what other machines have done."""

AHEAD = 3
"""A trial is taken ahead of time while more than this many for each process are left."""

PATIENCE = 10.0
"""A run is hung when it takes so many times the slowest that has ended,"""

LEAST_LIMIT_SECONDS = 120.0
"""but never before this; while none has ended nothing says how long a run takes, and there is no limit."""

ATTEMPTS = 3
"""How often a run is tried that accidents take: killed, or memory was short."""


def gather(study: Study, store: Store, plan: Plan = protocol.due) -> tuple[Study, list[Trial]]:
    """The study with all records of a store, and the trials that are to be run next.

    The records are in the order in which the plan names their trials, whoever made them and when.
    """
    records = store.records()
    keyed = {trial.key: trial for trial in plan(study.holding(list(records.values())))}
    ordered = study.holding([records[key] for key in keyed if key in records])
    return ordered, [trial for key, trial in keyed.items() if key not in records]


def execute(
    study: Study,
    store: Store,
    pool: Pool,
    *,
    plan: Plan = protocol.due,
    limit: float | None = None,
    watch: Callable[[Study, list[Trial]], Any] = lambda study, running: None,
) -> Study:
    """Runs all trials of a study that have no record yet, and gives the study with all of them.

    Args:
        study: what is to be measured.
        store: keeps the records and the queue, perhaps shared with others who work on the same.
        pool: the processes that train; the records do not depend on how many they are.
        plan: what is to be run; by default what the protocol of a comparison says.
        limit: seconds after which a run counts as hung; None for ten times the slowest that has ended, two
            minutes at least, and no limit before one has.
        watch: called with the study so far and the trials under way, whenever something has changed.

    Raises:
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.WorkerDiedError: a process could not start.
        thalweg.lab.StoreError: the storage failed.
    """
    try:
        return _execute(study, store, pool, plan, limit, watch)
    finally:
        store.release()


def _execute(
    study: Study,
    store: Store,
    pool: Pool,
    plan: Plan,
    limit: float | None,
    watch: Callable[[Study, list[Trial]], Any],
) -> Study:
    beaten, ahead, accidents = 0.0, list[Trial](), Counter[str]()
    while True:
        if time.monotonic() - beaten > HEARTBEAT_SECONDS:
            store.beat()
            store.release_dead()
            beaten = time.monotonic()
        study, todo = gather(study, store, plan)
        if not todo:
            watch(study, [])
            return study
        seconds = _limit(study) if limit is None else limit
        while pool.idle and (trial := ahead.pop() if ahead else store.take(todo)) is not None:
            pool.start(trial, seconds)
        # While there is work for all, a trial is kept ready for whichever process is done next, so that none
        # waits for the storage.
        if not ahead and len(todo) > AHEAD * pool.workers and (trial := store.take(todo)) is not None:
            ahead.append(trial)
        watch(study, pool.running)
        for record in pool.wait(POLL_SECONDS):
            if ahead:
                pool.start(ahead.pop(), seconds)
            accidents[record.trial.key] += record.lost
            if record.lost and accidents[record.trial.key] < ATTEMPTS:
                store.offer_again(record.trial)
            else:
                store.finish(record)
                if not record.lost:
                    pool.forget(record.trial)


def _limit(study: Study) -> float:
    totals = [record.timing.total for record in study.records if record.timing is not None]
    return max(LEAST_LIMIT_SECONDS, PATIENCE * max(totals)) if totals else math.inf
