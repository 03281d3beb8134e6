"""Where data sets lie: the user's cache, downloads with a checksum, and errors that say what to do."""

import gzip
import hashlib
import http.client
import os
import sys
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from thalweg.lowering import files

TIMEOUT = 30.0
"""Seconds that a server may be silent."""


class MissingDataError(ValueError):
    """A data set is not there, or not what it should be; the message is one line that says what to do."""


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Attributes:
        name: of the file in the cache.
        url: where it lies.
        sha256: of its content, in hexadecimal.
        megabytes: its size, to tell who waits.
    """

    name: str
    url: str
    sha256: str
    megabytes: float


def cache_folder(workload: str) -> Path:
    """The folder that the downloads of a workload are kept in; it may not exist yet.

    It lies in the user's cache, or in ``THALWEG_DATA_DIR`` where that is set.

    Raises:
        MissingDataError: the user has no home, as one without a name and ``HOME``.
    """
    chosen = os.environ.get("THALWEG_DATA_DIR")
    try:
        root = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("thalweg") / "data"
    except RuntimeError:
        raise MissingDataError(
            "no home directory to keep data in; set THALWEG_DATA_DIR to a folder"
        ) from None
    return root / workload


def fetch(remote: Remote, folder: Path, advice: str) -> Path:
    """The path of a file in a cache folder, downloaded if it is not there whole.

    Args:
        remote: the file.
        folder: where it is kept; made if need be.
        advice: what a user without network can do instead, to end the error with.

    Raises:
        MissingDataError: it could not be downloaded or stored, or has another checksum.
    """
    path = folder / remote.name
    if path.is_file() and sha256(path.read_bytes()) == remote.sha256:
        return path
    sys.stderr.write(f"thalweg: downloading {remote.url} ({remote.megabytes:g} MB) to {folder}\n")
    content = _download(remote, advice)
    try:
        files.prepare_folder(folder)
        files.write_atomically(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MissingDataError(f"cannot write {str(path)!r}: {reason}; set THALWEG_DATA_DIR") from None
    return path


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def unpacked(path: Path) -> bytes:
    """The content of a file, unpacked if its name ends with ``.gz``.

    Raises:
        MissingDataError: it cannot be read or is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise MissingDataError(f"cannot read {str(path)!r}: {_reason(error)}") from None


def _download(remote: Remote, advice: str) -> bytes:
    try:
        with urllib.request.urlopen(remote.url, timeout=TIMEOUT) as response:
            content: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MissingDataError(f"cannot download {remote.url}: {_reason(error)}; {advice}") from None
    found = sha256(content)
    if found != remote.sha256:
        raise MissingDataError(
            f"{remote.url} has SHA-256 {found[:12]}..., not {remote.sha256[:12]}...: "
            f"it is damaged or not the official file; {advice}"
        )
    return content


def _reason(error: BaseException) -> str:
    """Why it failed, in one line; a URLError wraps the error that says so."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(error).__name__
