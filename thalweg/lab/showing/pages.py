"""A page as a file and in a notebook; needs nothing but Python."""

from collections.abc import Callable
from html import escape
from pathlib import Path

from thalweg.lowering import files


def save(path: str | Path, page: Callable[[], str]) -> None:
    """Writes a page, whole or not at all.

    Raises:
        ValueError: the file's name does not end with ``.html``; the page was not made then.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"path must end with .html, not {str(path)!r}")
    content = page().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content)


def prepare(out: Path) -> None:
    """Sees that the page can be written where ``--out`` says.

    Raises:
        ValueError: it cannot; the message is for the user.
    """
    if out.suffix != ".html":
        raise ValueError(f"--out must be a file that ends with .html, not {str(out)!r}")
    try:
        if out.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        files.prepare_folder(out.parent)
    except OSError as error:
        raise ValueError(f"--out: cannot write {str(out)!r}: {error.strerror or error}") from None


def frame(title: str, page: str, height: int) -> str:
    """A page inside a notebook: a frame of its own keeps its style and script apart from the notebook's."""
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe title="{escape(title)}" style="{style}" srcdoc="{escape(page)}"></iframe>'
