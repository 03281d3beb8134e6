"""The commands. Each is one function that imports what it needs when it is called."""

import sys

try:
    from thalweg.cli.app import main
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    sys.stderr.write("thalweg: the commands need typer: pip install 'thalweg[lab]'\n")
    raise SystemExit(2) from None

__all__ = ["main"]
