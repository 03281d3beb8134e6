"""A storage whose server is away for a while, and errors of storages in clear words."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
import sqlalchemy

from thalweg.lab.running import endings
from thalweg.lab.running.connecting import hidden
from thalweg.lab.workload.errors import StoreError

AWAY_SECONDS = (0.2, 0.5, 1.0, 2.0, *(5.0,) * 120)
"""How long to wait each time before a server that went away is asked again: ten minutes in all."""

_Given = TypeVar("_Given")


def patiently(method: Callable[..., _Given]) -> Callable[..., _Given]:
    """A method of a store that is called again while the server is away: it restarts, or a network fails.

    Those that are so called leave things right when they are called twice. Who leaves does not wait.
    """

    @functools.wraps(method)
    def called(self: "Patient", *arguments: Any) -> _Given:
        for seconds in AWAY_SECONDS:
            try:
                found = method(self, *arguments)
            except StoreError as error:
                if not is_away(error) or self._is_leaving:
                    raise
                self._note_away(error)
            else:
                self._note_back()
                return found
            time.sleep(seconds)
        return method(self, *arguments)

    return called


class Patient:
    """What talks to a storage, and waits for one that is away.

    Args:
        storage: as the user calls it.

    Attributes:
        say: called with a line for the user when the server is away, and when it is back.
    """

    def __init__(self, storage: str) -> None:
        self.say: Callable[[str], Any] = lambda line: None
        self._storage_name = storage
        self._away_since: float | None = None
        self._back_at = -math.inf
        self._is_leaving = False

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


@contextmanager
def talking_to(storage: str) -> Iterator[None]:
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
def forgiving_absence() -> Iterator[None]:
    """That a server is away is no error meanwhile."""
    try:
        yield
    except StoreError as error:
        if not is_away(error):
            raise


def is_away(error: StoreError) -> bool:
    """Whether a server, and not a file, is at fault, and only for now as far as one can see."""
    causes = [error.__cause__, getattr(error.__cause__, "__cause__", None)]
    found = [
        c for c in causes if isinstance(c, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
    ]
    return any("sqlite" not in type(c.orig).__module__ for c in found)
