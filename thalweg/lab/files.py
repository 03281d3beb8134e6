"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def prepare(folder: Path) -> None:
    """Creates the folder if need be and writes, then removes, a file in it.

    Raises:
        OSError: a file cannot be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\n")


def write(path: Path, text: str) -> None:
    """Writes a file so that a reader finds the old text or the new one, never a part.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
