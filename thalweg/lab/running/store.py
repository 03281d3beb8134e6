"""The study's records and who is at which of its trials, in an Optuna storage: a file, or a database server.

Any number of machines may work on one study. A trial is taken by exactly one of them, and what a machine
was at when it died is offered again. Nothing that has finished is ever lost: a record is written in one
transaction as soon as its run has ended.
"""

import functools
import json
import math
import os
import platform
import random
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from thalweg.lab.running import endings
from thalweg.lab.running.processes import process_exists
from thalweg.lab.study import record as records
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.workload.errors import StoreError

HEARTBEAT_SECONDS = 10
"""How often a machine says that it is still at its trials."""

GRACE_SECONDS = 60
"""After how long a silence they are offered again."""

TURN_SECONDS = 60
"""How long a process waits for its turn to write to a file."""

_Given = TypeVar("_Given")

IN_MEMORY = "sqlite://"
"""A store that ends with the process."""


def address(storage: str) -> str:
    """The SQLAlchemy address of a storage that a user names: a database's address or a file's path.

    A PostgreSQL address without a driver gets psycopg's.

    Raises:
        StoreError: it is an address that cannot be read.
    """
    if "://" not in storage:
        path = str(Path(storage).absolute())
        # As an address, the path may hold the signs that end one in SQLAlchemy's addresses.
        return f"sqlite:///file:{quote(path)}?uri=true" if set(path) & set("#?%{}") else f"sqlite:///{path}"
    try:
        sqlalchemy.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StoreError(
            f"storage {hidden(storage)!r}: not an address such as postgresql://user@host/database"
        ) from None
    scheme, _, rest = storage.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else storage


AWAY_SECONDS = (0.2, 0.5, 1.0, 2.0, *(5.0,) * 120)
"""How long to wait each time before a server that went away is asked again: ten minutes in all."""


def _patiently(method: Callable[..., _Given]) -> Callable[..., _Given]:
    """A method of a store that is called again while the server is away: it restarts, or a network fails.

    Those that are so called leave things right when they are called twice. Who leaves does not wait.
    """

    @functools.wraps(method)
    def called(self: "Store", *arguments: Any) -> _Given:
        for seconds in AWAY_SECONDS:
            try:
                found = method(self, *arguments)
            except StoreError as error:
                if not _is_away(error) or self._is_leaving:
                    raise
                self._note_away(error)
            else:
                self._note_back()
                return found
            time.sleep(seconds)
        return method(self, *arguments)

    return called


class Store:
    """One study in a storage; it is made there if it does not exist.

    Args:
        storage: see `address`.
        name: of the study; whoever gives the same name works on the same study.
        higher_is_better: the direction in which Optuna's own tools show it.
        fresh: whether to delete what there is of that name first.
        former: the name that the study had in earlier versions; one that still has it goes on under it.

    Attributes:
        name: under which it is kept.
        say: called with a line for the user when the server is away, and when it is back.

    Raises:
        StoreError: the storage cannot be reached.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        *,
        higher_is_better: bool,
        fresh: bool = False,
        former: str | None = None,
    ) -> None:
        with _talking_to(storage), _quietly():
            self._connection = _connect(address(storage))
            self._storage: BaseStorage = get_storage(self._connection)
            for old in filter(None, (name, former) if fresh else ()):
                with suppress(KeyError):
                    optuna.delete_study(study_name=old, storage=self._storage)
            names = {study.study_name for study in self._storage.get_all_studies()} if former else set()
            if former in names and name not in names:
                name = str(former)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
            )
        self.name = name
        self.say: Callable[[str], Any] = lambda line: None
        self._token = uuid.uuid4().hex
        self._away_since: float | None = None
        self._back_at = -math.inf
        self._is_leaving = False
        self._id = self._storage.get_study_id_from_name(name)
        self._records: dict[int, Record] = {}
        self._ours: dict[str, int] = {}
        self._entered: dict[str, int] = {}
        self._unsure: set[str] = set()
        self._seen: list[FrozenTrial] = []
        self._storage_name = storage
        self._forgiven: frozenset[int] = frozenset()
        self.records()
        # Whoever opens the study tries again what accidents took before.
        self._forgiven = frozenset(n for n, record in self._records.items() if record.lost)

    def _note_away(self, error: StoreError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self.say(f"{error}; runs go on, and what they give is kept until the server is back")

    def _note_back(self) -> None:
        if self._away_since is not None:
            self._back_at = time.monotonic()
            gone = self._back_at - self._away_since
            self._away_since = None
            self.say(f"storage {hidden(self._storage_name)!r} is back after {gone:.0f} s")

    @_patiently
    def agreed(self) -> dict[str, Any] | None:
        """What `agree` was given by whoever began the study; None if nobody did."""
        with _talking_to(self._storage_name):
            said = [entry.user_attrs["agreed"] for entry in self._entries() if "agreed" in entry.user_attrs]
        return said[0] if said else None

    @_patiently
    def agree(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps `facts` with the study for all who join it; returns those that count."""
        # The storage numbers the entries one by one, so that of several who begin at once all see the same
        # first word. It is entered as a trial without a key, for an attribute's last word would count.
        word = create_trial(state=TrialState.FAIL, user_attrs={"agreed": dict(facts)})
        with _talking_to(self._storage_name):
            self._storage.create_new_trial(self._id, word)
        return self.agreed() or dict(facts)

    @_patiently
    def noted(self) -> dict[str, Any]:
        """What `note` was given for this study."""
        with _talking_to(self._storage_name):
            return dict(self._storage.get_study_user_attrs(self._id).get("notes", {}))

    @_patiently
    def note(self, notes: Mapping[str, Any]) -> None:
        """Keeps with the study what tells it from others; all who work on it note the same."""
        with _talking_to(self._storage_name):
            self._storage.set_study_user_attr(self._id, "notes", dict(notes))

    @_patiently
    def others(self) -> list[dict[str, Any]]:
        """The notes of the other studies in the storage, those that were begun last first."""
        with _talking_to(self._storage_name):
            studies = [study for study in self._storage.get_all_studies() if study._study_id != self._id]
        studies.sort(key=lambda study: -study._study_id)
        return [study.user_attrs["notes"] for study in studies if "notes" in study.user_attrs]

    @_patiently
    def records(self) -> dict[str, Record]:
        """The records there are, by the keys of their trials, and a fresh look at what others are at."""
        # Who leaves makes do with what was last seen.
        with _forgiving_absence() if self._is_leaving else nullcontext(), _talking_to(self._storage_name):
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

    @_patiently
    def take(self, trials: Iterable[Trial]) -> Trial | None:
        """The first of `trials` that nobody has taken or finished, taken; None if there is none.

        What others are at is known from the last `records`, and asked again about what is taken.
        """
        self._is_leaving = False
        taken = {trial.user_attrs["key"] for trial in self._seen if self._is_alive(trial)} | self._ours.keys()
        with _talking_to(self._storage_name):
            for trial in trials:
                if trial.key not in taken and self._claim(trial):
                    return trial
        return None

    @_patiently
    def finish(self, record: Record) -> None:
        """Keeps the record of a trial that was taken."""
        text = json.dumps(records.to_json(record))
        values = None if record.validation is None else [record.validation.metric]
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        with _talking_to(self._storage_name):
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

    @_patiently
    def offer_again(self, trial: Trial) -> None:
        """Gives up a trial that was taken: an accident took its run."""
        with _talking_to(self._storage_name):
            self._give_up(self._ours[trial.key])
            del self._ours[trial.key]

    @_patiently
    def beat(self) -> None:
        """Says that the trials which were taken are still under way; call it every ten seconds or so."""
        with _talking_to(self._storage_name):
            for trial_id in self._ours.values():
                self._storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]

    def release(self) -> None:
        """Gives up the trials that were taken and have no record, before this process leaves; they will be
        offered again.

        A server that is away is not waited for: others will see that this process is gone, or silent.
        """
        self._is_leaving = True
        with _forgiving_absence(), _talking_to(self._storage_name):
            for trial_id in self._ours.values():
                self._give_up(trial_id)
        self._ours.clear()

    @_patiently
    def release_dead(self) -> None:
        """Gives up the trials of processes of this machine that ended, and of machines that fell silent."""
        with _talking_to(self._storage_name):
            # While the server was away nobody could be heard of; now all have the time to be.
            if time.monotonic() - self._back_at > GRACE_SECONDS:
                with _quietly():
                    fail_stale_trials(self._study)
            for trial in self._trials():
                if trial.state == TrialState.RUNNING and _is_dead(trial):
                    self._give_up(trial._trial_id)

    def close(self) -> None:
        """Ends the connection, whether or not there is still somebody at its other end."""
        with _forgiving_absence(), _talking_to(self._storage_name):
            self._storage.remove_session()
            self._connection.engine.dispose()

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

    def _entries(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

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


def _connect(url: str) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith("sqlite"):
        # SQLite lets one process write at a time; the others wait their turn instead of failing.
        options["connect_args"] = {"timeout": TURN_SECONDS}
    elif url.startswith("postgresql+psycopg"):
        # A host that does not answer would otherwise be waited for as long as the system sees fit.
        options["connect_args"] = {"connect_timeout": 20, **_SILENCE}
        # A connection that the server has closed meanwhile is replaced when it is next used.
        options["pool_pre_ping"] = True
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if attempt == _ATTEMPTS - 1 or not _is_made_by_another(error):
                raise
            time.sleep(0.2 * random.random())
    raise AssertionError


_ATTEMPTS = 10

_SILENCE = {
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 40_000,
}
"""After 40 seconds and not hours a server is given up that was cut off without a word; by libpq's names."""


def _is_made_by_another(error: Exception) -> bool:
    """Whether somebody else was making the same tables at the same moment."""
    causes = (error, error.__cause__)
    return any(isinstance(c, sqlalchemy.exc.IntegrityError) or "already exists" in str(c) for c in causes)


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


@contextmanager
def _talking_to(storage: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the storage has answered, and its errors are told in clear words.

    One that cuts SQLAlchemy short while it reads leaves a connection that keeps the file locked, for as long
    as the exception is under way: whoever answers it could write no more.
    """
    with endings.held_back(), _clear_errors(storage):
        yield


@contextmanager
def _clear_errors(storage: str) -> Iterator[None]:
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
        raise StoreError(f"storage {hidden(storage)!r}: {reason.splitlines()[0]}") from error
    except ImportError as error:
        # Optuna wraps the error that says which.
        package = getattr(error.__cause__, "name", None) or error.name
        cure = ": pip install 'thalweg[postgresql]'" if package == "psycopg" else ""
        raise StoreError(f"storage {hidden(storage)!r} needs the package {package}{cure}") from error


@contextmanager
def _forgiving_absence() -> Iterator[None]:
    """That a server is away is no error meanwhile."""
    try:
        yield
    except StoreError as error:
        if not _is_away(error):
            raise


def _is_away(error: StoreError) -> bool:
    """Whether a server, and not a file, is at fault, and only for now as far as one can see."""
    causes = [error.__cause__, getattr(error.__cause__, "__cause__", None)]
    found = [
        c for c in causes if isinstance(c, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
    ]
    return any("sqlite" not in type(c.orig).__module__ for c in found)


def hidden(text: str) -> str:
    """A storage's address, or a word that it is part of, without the password that may be in it."""
    text = re.sub(r"(://[^/:@]*:).*@", r"\1***@", text)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", text)


@contextmanager
def _quietly() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Heartbeats have been called experimental since 2021.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
