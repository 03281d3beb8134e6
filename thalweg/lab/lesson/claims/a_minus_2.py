"""Adam doubles the memory."""

from typing import Any

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Counted, Line, Remedy, Trio, told
from thalweg.lab.lesson.counting import state_bytes
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, ahead
from thalweg.lab.lesson.scale import POINTS

INT8 = arms.arm("adam-int8", "Adam", 1e-5, state="int8")

DIGITS = Experiment("digits-int8", workloads.digits, (arms.ADAM, INT8))

STORED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Adam", {}),
    ("Adam, bfloat16 state", {"state": "bfloat16"}),
    ("Adam, int8 state", {"state": "int8"}),
    ("SGD with momentum", {"momentum": 0.9}),
    ("SGD with momentum, int8 state", {"momentum": 0.9, "state": "int8"}),
    ("SGD", {}),
)


def count() -> Counted:
    """Bytes of state a parameter by optimizer and storage."""
    found = {name: state_bytes("thalweg", name.split()[0].rstrip(","), **more) for name, more in STORED}
    adam, momentum = found["Adam"], found["SGD with momentum"]
    return Counted(
        holds=1.99 < adam / momentum < 2.01,
        text=f"Adam keeps {adam:.2f} bytes a parameter, {adam / momentum:.2f} times those of SGD with "
        f"momentum and {adam / 4:.2f} times the weights; in int8 it keeps {found['Adam, int8 state']:.2f}.",
        head=("optimizer", "bytes of state a parameter", "with weights and gradients"),
        rows=[(name, f"{size:.2f}", f"{size + 8:.2f}") for name, size in found.items()],
    )


def secondary(found: Found) -> list[Line]:
    """What int8 costs in accuracy."""
    if DIGITS.name not in found.studies:
        return []
    return [
        told(
            "int8 state ahead of float32 on digits, tuned",
            ahead(found[DIGITS.name], INT8.name, "adam"),
            POINTS,
        )
    ]


def trio(found: Found) -> Trio | None:
    """Bytes, turned so that fewer are more; counted, so of one seed."""
    sizes = [
        state_bytes("thalweg", "Adam"),
        state_bytes("thalweg", "Adam", state="int8"),
        state_bytes("thalweg", "SGD", momentum=0.9),
    ]
    return Trio(*({0: -size} for size in sizes))


CLAIM = Claim(
    name="A-2",
    subject="Adam",
    says="Adam doubles the memory.",
    endpoint="Counted: bytes of optimizer state a parameter after a step, of a tensor of 100,000 in "
    "float32, Adam's over those of SGD with momentum.",
    exact=count,
    conditions="Of the optimizer's state, beside SGD with momentum; beside SGD alone it is from nothing to "
    "twice the weights.",
    secondary=secondary,
    remedies=(
        Remedy(
            "int8 state",
            "Adam(state='int8'): 8 bits an element and a scale for 64 of them",
            "SGD with momentum",
            (DIGITS,),
            trio,
        ),
    ),
)
