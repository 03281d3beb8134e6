"""`thalweg memory`."""

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.arguments import whole
from thalweg.cli.failing import failures, need_lab


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
