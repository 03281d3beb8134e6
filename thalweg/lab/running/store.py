"""The study's records and who is at which of its trials, in an Optuna storage: a file, or a database server.

Any number of machines may work on one study. A trial is taken by exactly one of them, and what a machine
was at when it died is offered again. Nothing that has finished is ever lost: a record is written in one
transaction as soon as its run has ended.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from thalweg.lab.running.absence import forgiving_absence, patiently, talking_to
from thalweg.lab.running.connecting import GRACE_SECONDS, quietly
from thalweg.lab.running.kept import KeptStudy
from thalweg.lab.running.processes import process_exists
from thalweg.lab.study import record as records
from thalweg.lab.study.record import Record, Trial


class Store(KeptStudy):
    """The records of a study, and who is at which of its trials; see `KeptStudy`."""

    def __init__(
        self,
        storage: str,
        name: str,
        *,
        higher_is_better: bool,
        fresh: bool = False,
        former: str | None = None,
    ) -> None:
        super().__init__(storage, name, higher_is_better=higher_is_better, fresh=fresh, former=former)
        self._token = uuid.uuid4().hex
        self._records: dict[int, Record] = {}
        self._ours: dict[str, int] = {}
        self._entered: dict[str, int] = {}
        self._unsure: set[str] = set()
        self._seen: list[FrozenTrial] = []
        self._forgiven: frozenset[int] = frozenset()
        self.records()
        # Whoever opens the study tries again what accidents took before.
        self._forgiven = frozenset(n for n, record in self._records.items() if record.lost)

    @patiently
    def records(self) -> dict[str, Record]:
        """The records there are, by the keys of their trials, and a fresh look at what others are at."""
        # Who leaves makes do with what was last seen.
        with forgiving_absence() if self._is_leaving else nullcontext(), talking_to(self._storage_name):
            self._seen = self._trials()
        for trial in self._seen:
            if trial.number not in self._records and "record" in trial.user_attrs:
                document = json.loads(trial.user_attrs["record"])
                self._records[trial.number] = records.from_json(document)
        # Of two records of a trial the first that was entered counts, for all; one that no accident took
        # counts before those.
        counting = [n for n in self._records if n not in self._forgiven]
        order = sorted(counting, key=lambda n: (self._records[n].lost, n), reverse=True)
        return {self._records[n].trial.key: self._records[n] for n in order}

    @patiently
    def take(self, trials: Iterable[Trial]) -> Trial | None:
        """The first of `trials` that nobody has taken or finished, taken; None if there is none.

        What others are at is known from the last `records`, and asked again about what is taken.
        """
        self._is_leaving = False
        taken = {trial.user_attrs["key"] for trial in self._seen if self._is_alive(trial)} | self._ours.keys()
        with talking_to(self._storage_name):
            for trial in trials:
                if trial.key not in taken and self._claim(trial):
                    return trial
        return None

    @patiently
    def finish(self, record: Record) -> None:
        """Keeps the record of a trial that was taken."""
        text = json.dumps(records.to_json(record))
        values = None if record.validation is None else [record.validation.metric]
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        with talking_to(self._storage_name):
            trial_id = self._ours[record.trial.key]
            try:
                self._storage.set_trial_user_attr(trial_id, "record", text)
                self._storage.set_trial_state_values(trial_id, state, values)
            except optuna.exceptions.UpdateFinishedTrialError:
                # Others gave this machine up for dead; perhaps they have run the trial again meanwhile.
                if not self._has_record(record.trial):
                    late = _entry(record.trial, state, values, record=text)
                    self._storage.create_new_trial(self._id, late)
            del self._ours[record.trial.key]

    @patiently
    def offer_again(self, trial: Trial) -> None:
        """Gives up a trial that was taken: an accident took its run."""
        with talking_to(self._storage_name):
            self._give_up(self._ours[trial.key])
            del self._ours[trial.key]

    @patiently
    def beat(self) -> None:
        """Says that the trials which were taken are still under way; call it every ten seconds or so."""
        with talking_to(self._storage_name):
            for trial_id in self._ours.values():
                self._storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]

    def release(self) -> None:
        """Gives up the trials that were taken and have no record, before this process leaves; they will be
        offered again.

        A server that is away is not waited for: others will see that this process is gone, or silent.
        """
        self._is_leaving = True
        with forgiving_absence(), talking_to(self._storage_name):
            for trial_id in self._ours.values():
                self._give_up(trial_id)
        self._ours.clear()

    @patiently
    def release_dead(self) -> None:
        """Gives up the trials of processes of this machine that ended, and of machines that fell silent."""
        with talking_to(self._storage_name):
            # While the server was away nobody could be heard of; now all have the time to be.
            if time.monotonic() - self._back_at > GRACE_SECONDS:
                with quietly():
                    fail_stale_trials(self._study)
            for trial in self._trials():
                if trial.state == TrialState.RUNNING and _is_dead(trial):
                    self._give_up(trial._trial_id)

    def _give_up(self, trial_id: int) -> None:
        # Somebody else may have been quicker to give it up.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _is_alive(self, entry: FrozenTrial) -> bool:
        if entry.number in self._forgiven:
            return False
        return "record" in entry.user_attrs or entry.state == TrialState.RUNNING

    def _has_record(self, trial: Trial) -> bool:
        same = [entry for entry in self._trials() if entry.user_attrs["key"] == trial.key]
        return any("record" in entry.user_attrs and entry.number not in self._forgiven for entry in same)

    def _trials(self) -> list[FrozenTrial]:
        return [entry for entry in self._entries() if "key" in entry.user_attrs]

    def _lost_entry(self, trial: Trial) -> int | None:
        """The entry that was made for a trial without our being told, as the server went away then."""
        ours = [t for t in self._trials() if t.user_attrs.get("store") == self._token and self._is_alive(t)]
        lost = [
            t._trial_id for t in ours if t.user_attrs["key"] == trial.key and "record" not in t.user_attrs
        ]
        return lost[0] if lost else None

    def _claim(self, trial: Trial) -> bool:
        """Enters a trial as under way here, unless somebody else has done so at the same moment.

        The storage numbers the entries one by one: of two for the same trial the first counts.
        """
        # A server that goes away in between is asked again, and must not find two entries of ours: one that
        # nobody is at would never be heard of, and never be given up.
        if trial.key not in self._entered:
            lost = self._lost_entry(trial) if trial.key in self._unsure else None
            self._unsure.add(trial.key)
            entry = _entry(trial, store=self._token)
            self._entered[trial.key] = lost or self._storage.create_new_trial(self._id, entry)
            self._unsure.discard(trial.key)
        trial_id = self._entered[trial.key]
        self._storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]
        same = [t for t in self._trials() if t.user_attrs["key"] == trial.key and self._is_alive(t)]
        if min(same, key=lambda t: t.number)._trial_id != trial_id:
            self._give_up(trial_id)
            del self._entered[trial.key]
            return False
        self._ours[trial.key] = self._entered.pop(trial.key)
        return True


def _entry(
    trial: Trial, state: TrialState = TrialState.RUNNING, values: Any = None, **attributes: Any
) -> FrozenTrial:
    # For Optuna's own tools, which have no place for choices that are not the same in all trials.
    numbers = {name: float(value) for name, value in trial.point.items() if type(value) in (int, float)}
    return create_trial(
        state=state,
        values=values,
        params=numbers,
        distributions={name: FloatDistribution(value, value) for name, value in numbers.items()},
        user_attrs={"key": trial.key, "owner": [platform.node(), os.getpid()], **attributes},
    )


def _is_dead(trial: FrozenTrial) -> bool:
    machine, process = trial.user_attrs["owner"]
    return machine == platform.node() and not process_exists(process)
