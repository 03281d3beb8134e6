"""All commands, as one program."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from thalweg.cli import lesson
from thalweg.cli.bench import bench
from thalweg.cli.compare import compare
from thalweg.cli.failing import fail
from thalweg.cli.memory import memory
from thalweg.cli.new_task import new_task
from thalweg.cli.rate import rate
from thalweg.cli.records import export, trial
from thalweg.cli.sensitivity import sensitivity
from thalweg.cli.simulate import simulate

COMMANDS: tuple[Callable[..., None], ...] = (
    compare,
    rate,
    sensitivity,
    trial,
    export,
    new_task,
    memory,
    simulate,
    bench,
)
"""In the order of the help."""


def thalweg(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Optimizers for PyTorch, and the lab that measures which one a model wants."""
    if version:
        from thalweg._version import __version__

        typer.echo(f"thalweg {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def made() -> typer.Typer:
    """Returns the program."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(thalweg)
    for command in COMMANDS:
        app.command()(command)
    of_lesson = typer.Typer(add_completion=False, rich_markup_mode=None)
    of_lesson.callback(invoke_without_command=True)(lesson.show)
    for command in lesson.COMMANDS:
        of_lesson.command()(command)
    app.add_typer(of_lesson, name="lesson")
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; every foreseen failure is one line and a status, never a traceback.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Raises:
        SystemExit: 0 when all went well, 2 for arguments that cannot be met, 130 after Ctrl-C, 143 after
            SIGTERM.
    """
    # The parent of BadParameter covers every misuse; typer has no public name for it.
    usage_error: type[Any] = typer.BadParameter.__bases__[0]
    try:
        status = made()(arguments, prog_name="thalweg", standalone_mode=False)
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "thalweg"
        fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    raise SystemExit(status or 0)
