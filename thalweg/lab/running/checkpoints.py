"""Checkpoints of runs: where they lie, how often they are made, and whether one may be gone on from.

A run that does not last a minute has none. One that does is kept at most once a minute, and so seldom that
keeping it takes no more than `SHARE` of its time.
"""

import hashlib
import io
import os
import pickle
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from thalweg.lab.running.logs import name_of
from thalweg.lab.study.record import Trial
from thalweg.lab.workload.errors import ResumingError
from thalweg.lowering import files

EVERY_SECONDS = 60.0
"""The least time between two checkpoints of a run, and before its first."""

SHARE = 0.02
"""The largest share of a run's time that is spent on them."""

BYTES_A_SECOND = 1e8
"""How fast a disk is thought to be before the first checkpoint has been written."""

FORMAT = b"thalweg run 1\n"

SUFFIX = ".run"


@dataclass(frozen=True)
class Place:
    """Where the checkpoints of a study lie.

    Attributes:
        folder: may not exist yet; others may keep those of other studies there.
        study: its name.
        every: the least seconds between two of a run.
    """

    folder: Path
    study: str
    every: float = EVERY_SECONDS

    def of(self, trial: Trial) -> Path:
        """The file of a run."""
        return self.folder / f"{self._prefix}{name_of(trial)}{SUFFIX}"

    def remove(self, trial: Trial) -> None:
        """Forgets a run."""
        with suppress(OSError):
            files.remove(self.of(trial))

    def clear(self) -> None:
        """Forgets all runs of the study."""
        with suppress(OSError):
            for file in list(self.folder.glob(f"*{self._prefix}*{SUFFIX}*")):
                file.unlink(missing_ok=True)
            self.folder.rmdir()

    def others(self) -> list[Path]:
        """The files of other studies, which no command that goes on may need any more."""
        if not self.folder.is_dir():
            return []
        found = sorted(self.folder.glob(f"*{SUFFIX}"))
        return [file for file in found if not file.name.startswith(self._prefix)]

    @property
    def _prefix(self) -> str:
        return f"{hashlib.sha256(self.study.encode()).hexdigest()[:12]}-"


class Keeper:
    """The checkpoints of one run under way.

    Args:
        place: where.
        trial: what is run.
        device: where it trains.
        say: called with a line for the user.
    """

    def __init__(self, place: Place, trial: Trial, device: torch.device, say: Callable[[str], Any]) -> None:
        self._place, self._path, self._say = place, place.of(trial), say
        self._title = f"{trial.name} ({trial.stage}, seed {trial.seed})"
        self._header = {"study": place.study, "trial": trial.key, "machine": _machine(device)}
        self._began = self._last = time.monotonic()
        self._cost: float | None = None
        self._off = False

    def due(self, size: Callable[[], int]) -> bool:
        """Whether it is time to write.

        Args:
            size: gives the bytes that are to be written, about.
        """
        gone = time.monotonic() - self._last
        if self._off or gone < self._place.every:
            return False
        if self._cost is None:
            self._cost = size() / BYTES_A_SECOND if self._place.every else 0.0
        return gone >= self._cost / SHARE or not self._place.every

    def write(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Writes what `state` gives, whole or not at all; what stands in the way is told once."""
        began = time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with files.writing(self._path) as file:
                _write(file, self._header, state())
        except (OSError, ResumingError, pickle.PicklingError) as error:
            self._off = True
            self._say(f"{self._title} has no checkpoint: {error}")
        self._last = time.monotonic()
        self._cost = self._last - began

    def read(self) -> dict[str, Any] | None:
        """What was kept of the run; None if nothing was, or nothing that is of use."""
        if not self._path.exists():
            return None
        try:
            return _read(self._path, self._header)
        except (OSError, ResumingError) as error:
            self.pass_over(str(error))
            return None

    def pass_over(self, reason: str) -> None:
        """Tells that the run begins anew, and why."""
        self._say(f"{self._title} begins anew, its checkpoint is passed over: {reason}")

    def went_on(self, step: int) -> None:
        """Tells that the run goes on."""
        self._say(f"{self._title} goes on from step {step}")


def _write(file: BinaryIO, header: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    counted = _Counted(file)
    file.write(FORMAT)
    head = pickle.dumps(dict(header))
    counted.write(len(head).to_bytes(8, "little") + head)
    torch.save(dict(state), counted)  # type: ignore[arg-type]
    file.write(counted.digest.digest())
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    with path.open("rb") as file:
        if not _is_whole(file):
            raise ResumingError(f"{path.name} is damaged, or none")
        file.seek(len(FORMAT))
        found = pickle.loads(file.read(int.from_bytes(file.read(8), "little")))
        if different := [name for name in header if found.get(name) != header[name]]:
            raise ResumingError(f"{path.name} is of another {different[0]}")
        rest = io.BufferedReader(_Part(file, file.tell(), path.stat().st_size - DIGEST))
        state: dict[str, Any] = torch.load(rest, map_location="cpu", weights_only=False)
    return state


def _is_whole(file: BinaryIO) -> bool:
    if file.read(len(FORMAT)) != FORMAT:
        return False
    digest, last = _digest(), b""
    while block := file.read(1 << 20):
        block = last + block
        last = block[-DIGEST:]
        digest.update(memoryview(block)[:-DIGEST])
    return digest.digest() == last


DIGEST = 32


def _digest() -> Any:
    return hashlib.blake2b(digest_size=DIGEST)


class _Counted(io.RawIOBase):
    """Takes the digest of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, _digest()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)


class _Part(io.RawIOBase):
    """A part of a file, to read."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._end - self._file.tell()))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}[whence]
        return self._file.seek(base + offset) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start


def _machine(device: torch.device) -> list[str]:
    """What the bits of a run depend on beside the study."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        kind = torch.backends.cpu.get_cpu_capability()
    return [torch.__version__, platform.machine(), device.type, kind]
