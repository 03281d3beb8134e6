"""Files that are written whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def prepare_folder(folder: Path) -> None:
    """Create the folder if need be, and write and remove a file in it.

    Raises:
        OSError: if a file cannot be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part.

    Raises:
        OSError: if it cannot be written; the old file is then as it was.
    """
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Write a file bit by bit, which takes the place of the old one when all has been written.

    Raises:
        OSError: if it cannot be written; the old file is then as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives a file to its owner alone
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a disk that is full does not say what it has no room for
        raise


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what was written of it by processes that were killed meanwhile."""
    for file in (path, *path.parent.glob(f"{glob.escape(_prefix(path))}*")):
        file.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
