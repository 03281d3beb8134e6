"""The study's records and who is at which of its trials, in an Optuna storage: a file, or a database server.

Any number of machines may work on one study. A trial is taken by exactly one of them, and what a machine
was at when it died is offered again. Nothing that has finished is ever lost: a record is written in one
transaction as soon as its run has ended.
"""

import json
import os
import platform
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from thalweg.lab import record as records
from thalweg.lab.errors import StoreError
from thalweg.lab.record import Record, Trial

HEARTBEAT_SECONDS = 10
"""How often a machine says that it is still at its trials."""

GRACE_SECONDS = 60
"""After how long a silence they are offered again."""

IN_MEMORY = "sqlite://"
"""A store that ends with the process."""


def address(storage: str) -> str:
    """The SQLAlchemy address of a storage that a user names: a database's address or a file's path.

    A PostgreSQL address without a driver gets psycopg's.
    """
    if "://" not in storage:
        return f"sqlite:///{Path(storage).absolute()}"
    scheme, _, rest = storage.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else storage


class Store:
    """One study in a storage; it is made there if it does not exist.

    Args:
        storage: see `address`.
        name: of the study; whoever gives the same name works on the same study.
        higher_is_better: the direction in which Optuna's own tools show it.
        fresh: whether to delete what there is of that name first.

    Raises:
        StoreError: the storage cannot be reached.
    """

    def __init__(self, storage: str, name: str, *, higher_is_better: bool, fresh: bool = False) -> None:
        with _clear_errors(storage), _quietly():
            self._storage: BaseStorage = get_storage(_connect(address(storage)))
            if fresh:
                with suppress(KeyError):
                    optuna.delete_study(study_name=name, storage=self._storage)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
            )
        self._id = self._storage.get_study_id_from_name(name)
        self._records: dict[int, Record] = {}
        self._ours: dict[str, int] = {}
        self._seen: list[FrozenTrial] = []
        self._storage_name = storage

    def agreed(self) -> dict[str, Any] | None:
        """What `agree` was given by whoever began the study; None if nobody did."""
        with _clear_errors(self._storage_name):
            attributes = self._storage.get_study_user_attrs(self._id)
        # Of several who began it at the same moment, all take the word of the same one.
        said = [key for key in attributes if key.startswith("agreed ")]
        return attributes[min(said)] if said else None

    def agree(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps `facts` with the study for all who join it; returns those that count."""
        with _clear_errors(self._storage_name):
            self._storage.set_study_user_attr(self._id, f"agreed {time.time_ns():020}", dict(facts))
        return self.agreed() or dict(facts)

    def records(self) -> dict[str, Record]:
        """The records there are, by the keys of their trials, and a fresh look at what others are at."""
        with _clear_errors(self._storage_name):
            self._seen = self._trials()
            for trial in self._seen:
                if trial.number not in self._records and "record" in trial.user_attrs:
                    document = json.loads(trial.user_attrs["record"])
                    self._records[trial.number] = records.from_json(document)
        return {record.trial.key: record for record in self._records.values()}

    def take(self, trials: Iterable[Trial]) -> Trial | None:
        """The first of `trials` that nobody has taken or finished, taken; None if there is none.

        What others are at is known from the last `records`, and asked again about what is taken.
        """
        taken = {trial.user_attrs["key"] for trial in self._seen if _is_alive(trial)} | self._ours.keys()
        with _clear_errors(self._storage_name):
            for trial in trials:
                if trial.key not in taken and self._claim(trial):
                    return trial
        return None

    def finish(self, record: Record) -> None:
        """Keeps the record of a trial that was taken."""
        trial_id = self._ours.pop(record.trial.key)
        with _clear_errors(self._storage_name):
            text = json.dumps(records.to_json(record))
            self._storage.set_trial_user_attr(trial_id, "record", text)
            if record.validation is None:
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            else:
                value = record.validation.metric
                self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])

    def beat(self) -> None:
        """Says that the trials which were taken are still under way; call it every ten seconds or so."""
        with _clear_errors(self._storage_name):
            for trial_id in self._ours.values():
                self._storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]

    def release(self) -> None:
        """Gives up the trials that were taken and have no record; they will be offered again."""
        with _clear_errors(self._storage_name):
            for trial_id in self._ours.values():
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self._ours.clear()

    def release_dead(self) -> None:
        """Gives up the trials of processes of this machine that ended, and of machines that fell silent."""
        with _clear_errors(self._storage_name):
            with _quietly():
                fail_stale_trials(self._study)
            for trial in self._trials():
                if trial.state == TrialState.RUNNING and _is_dead(trial):
                    # Somebody else may have been quicker to give it up.
                    with suppress(optuna.exceptions.UpdateFinishedTrialError):
                        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def close(self) -> None:
        """Ends the connection."""
        self._storage.remove_session()

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def _claim(self, trial: Trial) -> bool:
        """Enters a trial as under way here, unless somebody else has done so at the same moment.

        The storage numbers the entries one by one: of two for the same trial the first counts.
        """
        trial_id = self._storage.create_new_trial(self._id, _entry(trial))
        self._storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]
        same = [t for t in self._trials() if t.user_attrs["key"] == trial.key and _is_alive(t)]
        if min(same, key=lambda t: t.number)._trial_id != trial_id:
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return False
        self._ours[trial.key] = trial_id
        return True


def _connect(url: str) -> RDBStorage:
    # SQLite lets one process write at a time; the others wait their turn instead of failing.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return RDBStorage(
        url,
        engine_kwargs=options,
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
    )


def _entry(trial: Trial) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params=dict(trial.point),
        distributions={name: FloatDistribution(value, value) for name, value in trial.point.items()},
        user_attrs={"key": trial.key, "owner": [platform.node(), os.getpid()]},
    )


def _is_alive(trial: FrozenTrial) -> bool:
    return "record" in trial.user_attrs or trial.state == TrialState.RUNNING


def _is_dead(trial: FrozenTrial) -> bool:
    machine, process = trial.user_attrs["owner"]
    return machine == platform.node() and not _process_exists(process)


def _process_exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _clear_errors(storage: str) -> Iterator[None]:
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise StoreError(f"storage {hidden(storage)!r}: {reason}") from error
    except ModuleNotFoundError as error:
        raise StoreError(
            f"storage {hidden(storage)!r} needs the package {error.name}: pip install 'thalweg[postgresql]'"
        ) from error


def hidden(storage: str) -> str:
    """A storage's name without the password that may be in it."""
    if "://" not in storage:
        return storage
    return sqlalchemy.make_url(storage).render_as_string(hide_password=True)


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
