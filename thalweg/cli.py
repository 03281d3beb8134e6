"""The commands. Each is one function that imports what it needs when it is called."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
except ModuleNotFoundError:
    sys.stderr.write("thalweg: the commands need typer: pip install 'thalweg[lab]'\n")
    raise SystemExit(2) from None


def whole(text: str) -> int:
    """Parses a whole number; what is not one is named in the error."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """Parses a number; what is not one is named in the error."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


LAB = ("optuna", "plotly", "rich", "scipy", "sklearn")
"""What the lab imports beyond the optimizers' own dependencies."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
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


@app.command()
def compare(
    workload: Annotated[str, typer.Argument(help="What to train: digits.", metavar="WORKLOAD")],
    optimizers: Annotated[
        str, typer.Option(help="Optimizers to compare, separated by commas.")
    ] = "sgd,rmsprop,adamw",
    trials: Annotated[
        int,
        typer.Option(help="Learning rates to try for each optimizer.", parser=whole, metavar="N"),
    ] = 16,
    seeds: Annotated[
        int,
        typer.Option(help="Fresh seeds to measure each optimizer on.", parser=whole, metavar="N"),
    ] = 20,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report and the results; by default compare-WORKLOAD."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes to train in; by default one for each core.", parser=whole, metavar="N"),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Smallest difference worth having; by default the workload's (0.5).",
            parser=number,
            metavar="X",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes all that is random.", parser=whole, metavar="N")] = 0,
) -> None:
    """Tune and compare optimizers on a workload; write a report and the raw results.

    Every optimizer gets the same number of trials, each with another learning rate. The rate that
    is best on validation is then measured on the test split, on the same fresh seeds for all.
    """
    missing = [name for name in LAB if find_spec(name) is None]
    if missing:
        fail(f"the lab needs {', '.join(missing)}: pip install 'thalweg[lab]'")
    from thalweg.lab import command
    from thalweg.lab.pool import WorkerDiedError

    try:
        request = command.check(
            workload=workload,
            optimizers=optimizers,
            trials=trials,
            seeds=seeds,
            out=out,
            workers=workers,
            margin=margin,
            seed=seed,
        )
    except ValueError as error:
        fail(str(error))
    try:
        command.run(request)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except (OSError, WorkerDiedError) as error:
        fail(str(error), 1)


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="What to measure: steps, training, startup; by default all."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Time for each line of the tables.", parser=number, metavar="S"),
    ] = 6.0,
    out: Annotated[Path | None, typer.Option(help="A file for the figures as JSON.")] = None,
) -> None:
    """Measure our steps, whole training steps and start-up beside torch's best, in turns."""
    from thalweg.bench import command

    try:
        command.run(command.check(parts or command.PARTS, seconds, out), typer.echo)
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the program with one line on stderr."""
    sys.stderr.write(f"thalweg: {' '.join(message.split())}\n")
    raise SystemExit(status)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; every foreseen failure is one line and a status, never a traceback.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Raises:
        SystemExit: 0 when all went well, 2 for arguments that cannot be met, 130 after Ctrl-C.
    """
    # The parent of BadParameter covers every misuse; typer has no public name for it.
    usage_error: type[Any] = typer.BadParameter.__bases__[0]
    try:
        status = app(arguments, prog_name="thalweg", standalone_mode=False)
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "thalweg"
        fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    raise SystemExit(status or 0)
