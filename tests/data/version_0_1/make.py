"""Writes what a version leaves behind, with that version as PYTHONPATH: checkpoints and a study.

    git worktree add --detach /tmp/old COMMIT
    cp -r tests/data/version_0_1 /tmp/data && cd /tmp/data && PYTHONPATH=/tmp/old python make.py NAME

The files called `early` were made at 864e12a, those called `last` at ec99e90: both are 0.1.0.
"""

import gzip
import io
import sys
import tempfile
from pathlib import Path

import torch

import thalweg as tw

HERE = Path(__file__).parent

OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "RMSprop": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    "Adam": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "AdamW": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "Adagrad": ("Adagrad", {"lr": 0.01, "lr_decay": 0.1}),
    "Adadelta": ("Adadelta", {"lr": 1.0}),
    "Adamax": ("Adamax", {"lr": 0.01}),
    "NAdam": ("NAdam", {"lr": 0.01}),
    "RAdam": ("RAdam", {"lr": 0.01}),
    "Lion": ("Lion", {"lr": 0.001}),
    "AdamW int8": ("AdamW", {"lr": 0.01, "state": "int8", "seed": 3}),
    "SGD bfloat16": ("SGD", {"lr": 0.1, "momentum": 0.9, "state": "bfloat16", "seed": 3}),
    "AdamW corrected": ("AdamW", {"lr": 0.01, "state": "int8", "weight_bits": 24, "seed": 3}),
    "RMSprop debiased": ("RMSprop", {"lr": 0.01, "debias": True, "decoupled_weight_decay": True}),
    "AdamW averaged": ("AdamW", {"lr": 0.01, "average": 0.9, "max_norm": 1.0}),
    "SGD free": ("SGD", {"lr": 0.1, "schedule_free": 0.9}),
    "Prodigy": ("Prodigy", {"lr": 1.0}),
}
"""Each a class and its arguments; a version that knows a class or an argument not yet leaves it out."""

BEFORE, AFTER = 3, 2
"""Steps before the checkpoint, and after it."""

RUNS = 3
"""Runs of the study that are done when it is left."""


def parameters(title: str) -> list[torch.nn.Parameter]:
    """Three tensors; of what is stored in fewer bits one is so large that its state is in codes."""
    dtype = torch.bfloat16 if "corrected" in title else torch.float32
    large = (64, 64) if {"int8", "bfloat16", "corrected"} & {*title.split()} else (8, 16)
    shapes = [torch.Size(shape) for shape in (large, (128,), (5,))]
    return [torch.nn.Parameter(torch.linspace(-1.0, 1.0, s.numel()).view(s).to(dtype)) for s in shapes]


def step(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], number: int) -> None:
    """Takes the step of this number, by gradients that every version has alike: of whole eighths."""
    for place, param in enumerate(params):
        wave = (torch.arange(param.numel()) * (3 + place) + 5 * number) % 17 - 8
        param.grad = (wave.view(param.shape) / 8.0).to(param.dtype)
    optimizer.step()


def checkpoint(title: str) -> dict[str, object] | None:
    """The checkpoint of one optimizer, its weights then and some steps later; None if it does not exist."""
    kind, arguments = OPTIMIZERS[title]
    params = parameters(title)
    try:
        optimizer = getattr(tw, kind)(params, **arguments)
    except (AttributeError, TypeError):
        return None
    for number in range(BEFORE):
        step(optimizer, params, number)
    # Through a file, as steps that follow would change what it refers to.
    file = io.BytesIO()
    torch.save({"state": optimizer.state_dict(), "weights": [p.detach() for p in params]}, file)
    file.seek(0)
    for number in range(BEFORE, BEFORE + AFTER):
        step(optimizer, params, number)
    return {**torch.load(file, weights_only=True), "later": [p.detach().clone() for p in params]}


def write_checkpoints(path: Path) -> None:
    """Writes the checkpoints of all optimizers that there are, by title."""
    found = {title: checkpoint(title) for title in OPTIMIZERS}
    file = io.BytesIO()
    torch.save({title: one for title, one in found.items() if one is not None}, file)
    path.write_bytes(gzip.compress(file.getvalue(), mtime=0))


def write_study(name: str) -> None:
    """Begins a comparison, leaves it after some runs, and keeps its storage and its results."""
    try:
        from thalweg.lab.comparing import comparison
        from thalweg.lab.running.pool import Pool
    except ModuleNotFoundError:  # the lab had no rooms yet
        from thalweg.lab.pool import Pool

        from thalweg.lab import comparison

    def leave(study: object, running: object) -> None:
        if len(study.records) >= RUNS:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, Pool(1) as pool:
        storage = Path(folder) / "study.db"
        options = comparison.Options(trials=2, seeds=2, storage=str(storage))
        task = comparison.find(str(HERE / "line.py"))
        spaces = comparison.choose(["sgd", "adamw"], task.workload)
        try:
            comparison.compare(task, spaces, options, pool, say=print, watch=leave)
        except comparison.Interrupted as interrupted:
            interrupted.result.save(Path(folder))
        (HERE / f"study-{name}.db.gz").write_bytes(gzip.compress(storage.read_bytes(), mtime=0))
        (HERE / f"results-{name}.json").write_bytes((Path(folder) / "results.json").read_bytes())


if __name__ == "__main__":
    write_checkpoints(HERE / f"checkpoints-{sys.argv[1]}.pt.gz")
    write_study(sys.argv[1])
