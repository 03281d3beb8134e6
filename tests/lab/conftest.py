"""A PostgreSQL server of our own, and a task file for the tests that start processes."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from children import PATIENCE_SECONDS

PASSWORD = "s3cret-4711"


@dataclass(frozen=True)
class Server:
    """A running server that listens on a socket in `folder` only; `control` calls `pg_ctl` on it."""

    folder: Path
    control: Callable[..., None]

    def stop(self) -> None:
        """Ends it as a crash would: whoever is connected hears no word."""
        self.control("-m", "immediate", "stop")

    def start(self) -> None:
        """Starts it again, with what was committed."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        self.control("-o", options, "-l", str(self.folder / "log"), "start")

    def address(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://tester:{password}@/{database}?host={quote(str(self.folder), safe='')}"


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _user() -> str | None:
    """Whom the server must run as: not root, and somebody whom the system knows."""
    try:
        if os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid()).pw_name
        return pwd.getpwnam("postgres").pw_name if shutil.which("runuser") else None
    except KeyError:
        return None


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """Skips, with the reason, where no PostgreSQL can be started."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs, user = _programs(), _user()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    if user is None:
        pytest.skip(
            "PostgreSQL runs neither as root nor as a user without a name, and there is no user postgres"
        )
    # Not below pytest's folder, which other users may not enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="thalweg-pg-"))
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []

    def run(program: str, *arguments: str) -> None:
        # Output goes to a file, as the server keeps its end of a pipe open.
        with open(folder / "output", "w+b") as output:
            done = subprocess.run(
                [*become, str(programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                timeout=PATIENCE_SECONDS,
            )
        assert done.returncode == 0, (folder / "output").read_text()

    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        data = str(folder / "data")
        access = ("--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--username=tester")
        run("initdb", "-D", data, "--no-sync", "--encoding=UTF8", "--locale=C", *access)
        server = Server(folder, partial(run, "pg_ctl", "-D", data, "-w"))
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_numbers = count()


@pytest.fixture
def postgresql(postgresql_server: Server) -> str:
    """An address of a place without any tables: a schema, which is made sooner than a database."""
    import psycopg

    name = f"study{next(_numbers)}"
    with psycopg.connect(postgresql_server.address(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgresql_server.address()}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["file", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new storage of either kind."""
    if request.param == "file":
        return str(tmp_path / "study.db")
    address: str = request.getfixturevalue("postgresql")
    return address


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises an exception, also where the tests were started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


TASK = '''\
"""Fits a line to noisy points."""

import os
import time

import torch
from torch import nn

from thalweg.lab import Evaluation, Workload

SECONDS = {seconds}


class Small(Workload):
    name = "small"
    metric = "error"
    margin = 0.01
    steps = 20
    evaluate_every = 10
    batch_size = 8

    def model(self, seed):
        return nn.Linear(2, 1)

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        time.sleep(SECONDS)
        for _ in range(self.steps):
            inputs = torch.randn(8, 2, generator=generator)
            yield inputs, inputs.sum(dim=1, keepdim=True) + torch.randn(8, 1, generator=generator)

    def loss(self, model, batch):
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    def evaluate(self, model, split):
        generator = torch.Generator().manual_seed(1 if split == "test" else 2)
        inputs = torch.randn(64, 2, generator=generator)
        error = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean().item()
        return Evaluation(error, error)
'''


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a task whose runs take so many seconds, with more code at its end."""

    def write(seconds: float = 0.0, more: str = "", name: str = "small.py") -> Path:
        path = tmp_path / name
        path.write_text(TASK.format(seconds=seconds) + more)
        return path

    return write


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For models too small for more: several threads wait for one another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
