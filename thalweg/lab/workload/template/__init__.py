"""The file that ``thalweg new-task`` writes: `my_task.py` beside this one, which runs as it is."""

from pathlib import Path

from thalweg.lowering import files

SOURCE = Path(__file__).with_name("my_task.py")


def write(path: Path) -> None:
    """Writes the template, whole or not at all, to a file that must not exist yet.

    Raises:
        ValueError: the file exists, is not to be a Python file, or cannot be written.
    """
    if path.suffix != ".py":
        raise ValueError(f"{str(path)!r} must end with .py")
    if path.exists():
        raise ValueError(f"{str(path)!r} exists already; choose another name or remove it")
    try:
        files.write_atomically(path, SOURCE.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
