"""The commands. Each is one function that imports what it needs when it is called."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
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


LAB = ("cloudpickle", "optuna", "plotly", "rich", "scipy", "sklearn")
"""What the lab imports beyond the optimizers' own dependencies."""

INTERRUPTED, TERMINATED = 130, 143
"""The statuses that a shell gives to what Ctrl-C or SIGTERM ended: 128 and the signal's number."""

# What several commands are given.
Workers = Annotated[
    int | None,
    typer.Option(help="Processes to train in; by default one for each core.", parser=whole, metavar="N"),
]
Data = Annotated[
    Path | None, typer.Option(help="Where the data of a built-in task lie, if not in the usual place.")
]
SmallestDifference = Annotated[
    str | None,
    typer.Option(
        help="Smallest difference worth having, in the metric's unit or as 2%; by default the task's.",
        metavar="X",
    ),
]
Seed = Annotated[int, typer.Option(help="Fixes all that is random.", parser=whole, metavar="N")]
Limit = Annotated[
    float | None,
    typer.Option(
        help="Seconds after which a run is ended as hung; by default ten times the slowest so far.",
        parser=number,
        metavar="S",
    ),
]
Results = Annotated[Path, typer.Argument(help="The results.json of a comparison, or its folder.")]

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
    task: Annotated[
        str,
        typer.Argument(
            help="What to train: digits, fashion-mnist, text, speech or another of docs/workloads.md, or "
            "my_task.py[:name].",
            metavar="TASK",
        ),
    ],
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Optimizers to compare, separated by commas; dotted paths too. By default sgd,rmsprop,adamw."
        ),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            help="Recipes of the task to compare, separated by commas, or 'all': optimizers with schedule, "
            "batch size and what else they change.",
            metavar="NAMES",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Configurations to try for each optimizer; 16 by default.", parser=whole, metavar="N"
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds to measure each optimizer on at most; 24 by default.", parser=whole, metavar="N"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to spend, such as 10m; chooses trials and seeds.", metavar="TIME"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report and the results; by default compare-TASK."),
    ] = None,
    workers: Workers = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address that keeps the study; several machines may share it. "
            "By default study.db in the folder.",
            metavar="PLACE",
        ),
    ] = None,
    data: Data = None,
    margin: SmallestDifference = None,
    seed: Seed = 0,
    limit: Limit = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder for runs under way, so that one that is cut off goes on; several machines may share "
            "it. By default checkpoints in the folder."
        ),
    ] = None,
    no_early_stop: Annotated[
        bool,
        typer.Option("--no-early-stop", help="Finish trials that training only makes worse, too."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an earlier run of the same comparison measured.")
    ] = False,
    no_why: Annotated[
        bool,
        typer.Option(
            "--no-why",
            help="Do not measure why the final runs end where they end: sharpness, noise, size of steps.",
        ),
    ] = False,
) -> None:
    """Tune and compare optimizers on a task; write a report and the raw results.

    Every optimizer gets the same number of trials. The best two configurations of each, chosen on
    validation, are run on three more seeds, and the better one is measured on the test split, on fresh seeds
    that are the same for all. Stopped at any moment, the same command goes on from what there is: after
    Ctrl-C (status 130) or SIGTERM (143) it has written a report on that.
    """
    need_lab()
    from thalweg.lab.comparing import command

    request = command.Request(
        task=task,
        optimizers=optimizers,
        trials=trials,
        seeds=seeds,
        budget=budget,
        margin=margin,
        seed=seed,
        out=out,
        workers=workers,
        storage=storage,
        data=data,
        fresh=fresh,
        limit=limit,
        recipes=recipes,
        checkpoints=checkpoints,
        why=not no_why,
        early_stop=not no_early_stop,
    )
    with failures(), terminable():
        if not command.run(request):
            raise KeyboardInterrupt("; the same command goes on from here")


@app.command()
def rate(
    task: Annotated[
        str,
        typer.Argument(help="What to train, as for compare.", metavar="TASK"),
    ],
    optimizer: Annotated[
        str, typer.Option(help="An optimizer that compare takes; a dotted path too.")
    ] = "adamw",
    seeds: Annotated[
        int, typer.Option(help="Climbs, each with weights and batches of its own.", parser=whole, metavar="N")
    ] = 6,
    low: Annotated[
        float | None,
        typer.Option(
            "--from",
            help="The first rate; by default a tenth of the lowest that compare would try.",
            parser=number,
            metavar="LR",
        ),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            "--to", help="The last rate; by default a hundred times the highest.", parser=number, metavar="LR"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of one climb; by default those of a run of the task, 400 at most.",
            parser=whole,
            metavar="N",
        ),
    ] = None,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the picture and the table, such as rate.html.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON in place of the table.")
    ] = False,
) -> None:
    """Find a learning rate to start from: a run in which it climbs until training breaks.

    A range test (Smith 2015): one short run for each seed, the rate climbing geometrically. Suggested is
    half of the rate at which the smoothed loss is lowest: a start for a comparison, and no tuned rate.
    """
    need_lab()
    from thalweg.lab.sweeping.rate import command

    request = command.Request(task, optimizer, seeds, low, high, steps, seed, data, out, json)
    with failures(), terminable():
        if not command.run(request):
            raise KeyboardInterrupt("; this is what there was")


@app.command()
def sensitivity(
    task: Annotated[str, typer.Argument(help="What to train, as for compare.", metavar="TASK")],
    of: Annotated[
        list[str],
        typer.Option(
            help="A hyperparameter of the optimizer, as beta2 or eps; once or twice.", metavar="NAME"
        ),
    ],
    optimizer: Annotated[
        str, typer.Option(help="An optimizer that compare takes; a dotted path too.")
    ] = "adamw",
    values: Annotated[
        list[str] | None,
        typer.Option(
            help="Values in place of the range that compare searches: 0.9,0.99 or, of two, eps=1e-8,1e-4.",
            metavar="V,V",
        ),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Values of each, where none are given; 4 by default.", parser=whole, metavar="N"),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Learning rates tried at each point; 8 by default.", parser=whole, metavar="N"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds on which the best of them is measured; 6 by default.",
            parser=whole,
            metavar="N",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to spend, such as 10m; chooses points, trials and seeds.", metavar="TIME"),
    ] = None,
    margin: SmallestDifference = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the page and the results; by default sensitivity-TASK."),
    ] = None,
    workers: Workers = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address that keeps the runs, as for compare.", metavar="PLACE"
        ),
    ] = None,
    data: Data = None,
    limit: Limit = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an earlier run of the same question measured.")
    ] = False,
) -> None:
    """See how much one or two hyperparameters matter, with the learning rate tuned anew at each value.

    Every point gets as many trials of the rate, the best of them runs on fresh seeds that all share, and is
    measured on validation. Stopped at any moment, the same command goes on from what there is.
    """
    need_lab()
    from thalweg.lab.sweeping.sensitivity import command

    request = command.Request(
        task=task,
        of=of,
        optimizer=optimizer,
        values=values or [],
        points=points,
        trials=trials,
        seeds=seeds,
        budget=budget,
        margin=margin,
        seed=seed,
        out=out,
        workers=workers,
        storage=storage,
        data=data,
        limit=limit,
        fresh=fresh,
    )
    with failures(), terminable():
        if not command.run(request):
            raise KeyboardInterrupt("; the same command goes on from here")


@app.command()
def trial(
    results: Results,
    number: Annotated[
        int, typer.Option("--id", help="Which of its runs, as numbered in the report.", parser=whole)
    ],
) -> None:
    """Run one trial of a comparison again, alone, and see that it gives the same numbers."""
    need_lab()
    from thalweg.lab.comparing import command

    with failures():
        if not command.repeat(results, number):
            raise SystemExit(1)


@app.command()
def export(
    results: Results,
    to: Annotated[
        str, typer.Option(help="csv, tensorboard, mlflow or wandb, each by its own client.", metavar="WHAT")
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="Folder for what is written; by default that of the results.")
    ] = None,
) -> None:
    """Give the records of a comparison to another program: tables, TensorBoard, MLflow, W&B."""
    need_lab()
    from thalweg.lab.comparing import command

    with failures():
        for path in command.export(results, to, out):
            typer.echo(f"wrote {path}")


@app.command()
def new_task(
    path: Annotated[Path, typer.Argument(help="The file to write, such as my_task.py.")],
) -> None:
    """Write a commented, working task to start from."""
    from thalweg.lab.workload import template

    with failures():
        template.write(path)
    typer.echo(f"wrote {path}; edit it, then: thalweg compare {path}")


@app.command()
def memory(
    model: Annotated[
        str,
        typer.Argument(
            help="Whose bytes to count: a built-in task, my_task.py[:name], my_model.py:name, or the dotted "
            "path of a model or of a function without arguments that makes one.",
            metavar="MODEL_OR_TASK",
        ),
    ],
    optimizers: Annotated[
        str, typer.Option(help="Optimizers, separated by commas; dotted paths too.")
    ] = "sgd,rmsprop,adamw",
    state: Annotated[
        str, typer.Option(help="How optimizers store their state, separated by commas.")
    ] = "float32,bfloat16,int8",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Count the model as if cast: float32, bfloat16, float16, float64.", metavar="DTYPE"
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(help="Bits in which 16-bit weights are kept: 16, 24 or 32.", parser=whole, metavar="N"),
    ] = None,
    in_backward: Annotated[
        bool, typer.Option("--in-backward", help="Count the gradients that steps in backward hold.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A file for the picture and the table, such as memory.html.")
    ] = None,
) -> None:
    """Count the bytes of weights, gradients and optimizer state, by optimizer and storage.

    They are those of real tensors, after one step on a parameter of every kind that the model has.
    """
    need_lab()
    from thalweg.lab.memory import command

    with failures():
        command.run(command.Request(model, optimizers, state, dtype, weight_bits, in_backward, out))


lesson_app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.add_typer(lesson_app, name="lesson")

IDS = typer.Argument(help="Names of claims, such as S+3 A-1; by default all.", metavar="CLAIMS")
LESSON_OUT = typer.Option(
    help="Folder of the records; by default docs/lesson where it is there, else lesson.", metavar="FOLDER"
)


@lesson_app.callback(invoke_without_command=True)
def lesson(
    context: typer.Context,
    out: Annotated[Path | None, LESSON_OUT] = None,
) -> None:
    """What a lesson says of SGD, Adam and RMSprop, each claim put to a test: list what is known.

    `run` makes the runs that are missing, `landscape` measures planes of the loss, `report` writes the page.
    """
    if context.invoked_subcommand is None:
        need_lab()
        from thalweg.lab.lesson import command

        with failures():
            command.show(command.Request([], out), typer.echo)


@lesson_app.command("run")
def lesson_run(
    ids: Annotated[list[str] | None, IDS] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time it may take, as in 2h or 30m.", metavar="TIME")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one a core.", parser=whole, metavar="N")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="File or postgresql:// address for the runs under way; several machines may share it.",
            metavar="PLACE",
        ),
    ] = None,
    out: Annotated[Path | None, LESSON_OUT] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds and a few steps: to see that it works, for no verdict.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was run before.")] = False,
    remedies: Annotated[bool, typer.Option(help="Run the remedies too.")] = True,
) -> None:
    """Make the runs that are missing; stopped at any moment, the same command goes on from there."""
    need_lab()
    from thalweg.lab.lesson import command

    request = command.Request(ids or [], out, budget, workers, storage, quick, fresh, remedies)
    with failures(), terminable():
        command.run(request, typer.echo)


QUICK = typer.Option("--quick", help="Of the short runs of `run --quick`, which allow no verdict.")


@lesson_app.command("report")
def lesson_report(
    out: Annotated[Path | None, LESSON_OUT] = None,
    quick: Annotated[bool, QUICK] = False,
) -> None:
    """Write what the records tell as one HTML file into their folder."""
    need_lab()
    from thalweg.lab.lesson import command

    with failures():
        command.report(command.Request([], out, quick=quick), typer.echo)


@lesson_app.command("landscape")
def lesson_landscape(
    workload: Annotated[
        str | None, typer.Option(help="digits or text; by default both.", metavar="NAME")
    ] = None,
    out: Annotated[Path | None, LESSON_OUT] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps and points: to see that it works.")
    ] = False,
) -> None:
    """Measure the loss over the planes that runs of SGD, Adam and RMSprop span, for the report."""
    need_lab()
    from thalweg.lab.lesson import command

    with failures(), terminable():
        command.measure_landscape(command.Request([], out, quick=quick), workload, typer.echo)


@app.command()
def simulate(
    families: Annotated[
        str | None,
        typer.Option(help="Kinds of results, separated by commas; by default all.", metavar="NAMES"),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of optimizers, separated by commas; by default each family's.", metavar="N,N"
        ),
    ] = None,
    studies: Annotated[
        int, typer.Option(help="Studies of each of four cases.", parser=whole, metavar="N")
    ] = 200,
    workers: Annotated[int, typer.Option(help="Processes.", parser=whole, metavar="N")] = 1,
    seed: Seed = 0,
) -> None:
    """See how often the protocol of `compare` says what is false, on made-up results with a known truth.

    The real protocol names the runs and the real verdict judges them; nothing is trained.
    """
    need_lab()
    from thalweg.lab.simulating import command

    with failures():
        command.run(command.Request(families, optimizers, studies, workers, seed), typer.echo)


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="What to measure: steps, training, update, startup; by default all."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Time for each line of the tables.", parser=number, metavar="S"),
    ] = 6.0,
    out: Annotated[Path | None, typer.Option(help="A file for the figures as JSON.")] = None,
) -> None:
    """Measure our steps, training steps, the whole update and start-up beside torch's best, in turns."""
    from thalweg.bench import command

    try:
        command.run(command.check(parts or command.PARTS, seconds, out), typer.echo)
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)


def need_lab() -> None:
    """Ends the program with one line where the lab's packages are missing, or it cannot run."""
    missing = [name for name in LAB if find_spec(name) is None]
    if missing:
        fail(f"the lab needs {', '.join(missing)}: pip install 'thalweg[lab]'")
    try:
        import_module("thalweg.lab.running.processes")
    except ImportError as error:
        fail(str(error))


@contextmanager
def failures() -> Iterator[None]:
    """Turns what may go wrong in a comparison into a line on stderr and a status.

    Bad input ends with 2, a run that could not go on with 1, Ctrl-C with 130.
    """
    from thalweg.lab.workload.errors import StoreError, TrialError, WorkerDiedError

    try:
        yield
    except KeyboardInterrupt as error:
        fail(f"interrupted{error}", INTERRUPTED)
    except TrialError as error:
        fail_at_length(str(error))
    except ValueError as error:
        fail(str(error))
    except (OSError, StoreError, WorkerDiedError) as error:
        fail(str(error), 1)


@contextmanager
def terminable() -> Iterator[None]:
    """Has SIGTERM end what runs meanwhile as Ctrl-C does, with its own word and status.

    Where SIGTERM is ignored from the start it stays so, as Python does with SIGINT: whoever started the
    program meant it.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        # `timeout` sends two, and the second would cut the ending short.
        signal.signal(number, signal.SIG_IGN)
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        if not came:
            raise
        fail(f"terminated{error}", TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


def fail_at_length(message: str) -> NoReturn:
    """Ends the program with an error that keeps its lines, such as one in a user's own file."""
    sys.stderr.write(f"thalweg: {message.rstrip()}\n")
    raise SystemExit(1)


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the program with one line on stderr."""
    sys.stderr.write(f"thalweg: {' '.join(message.split())}\n")
    raise SystemExit(status)


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
        status = app(arguments, prog_name="thalweg", standalone_mode=False)
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "thalweg"
        fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    raise SystemExit(status or 0)


if __name__ == "__main__":
    main()
