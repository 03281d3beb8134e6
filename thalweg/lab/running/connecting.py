"""The connection to an Optuna storage: what a user calls it, and how it is opened."""

import random
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from thalweg.lab.workload.errors import StoreError

HEARTBEAT_SECONDS = 10
"""How often a machine says that it is still at its trials."""

GRACE_SECONDS = 60
"""After how long a silence they are offered again."""

TURN_SECONDS = 60
"""How long a process waits for its turn to write to a file."""

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


def hidden(text: str) -> str:
    """A storage's address, or a word that it is part of, without the password that may be in it."""
    text = re.sub(r"(://[^/:@]*:).*@", r"\1***@", text)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", text)


def connect(url: str) -> RDBStorage:
    """Opens the storage at an address as `address` gives it; its tables are made if there are none."""
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


@contextmanager
def quietly() -> Iterator[None]:
    """Optuna says nothing but warnings meanwhile."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Heartbeats have been called experimental since 2021.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
