"""One training run: what goes in (`Trial`) and what comes out (`Record`)."""

import math
import statistics
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.lab.spaces import Space
from thalweg.lab.workload import Evaluation, Split, Workload

WARM_UP = 0.05
"""The share of all steps over which the learning rate climbs to its full value."""

Stage = Literal["tune", "final"]
"""A run that helps to choose a learning rate, or one that measures the chosen rate on test."""


@dataclass(frozen=True)
class Trial:
    """Everything that fixes a run of a workload, so that it can be repeated bit for bit."""

    stage: Stage
    space: Space
    lr: float
    seed: int


class Point(NamedTuple):
    """One point of a learning curve.

    `loss` is the mean training loss since the point before (None at step 0, before training);
    `metric` is measured on the validation split.
    """

    step: int
    loss: float | None
    metric: float


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of one run on one thread.

    Attributes:
        seconds: all forward and backward passes and optimizer steps; no evaluation.
        step_ms: median milliseconds of one ``optimizer.step()``, so that a first step that
            compiles a kernel does not count.
    """

    seconds: float
    step_ms: float


@dataclass(frozen=True)
class Record:
    """What one run gave. Two records are equal when all but their timing is.

    Attributes:
        trial: what was run.
        curve: the learning curve, from before the first step to the last finite point.
        validation: evaluation after the last step; None if the run diverged.
        test: the same on the test split, of final runs only.
        diverged_at: the first step whose training or validation loss was not finite, or None.
        state_bytes: bytes of optimizer state beside the parameters, after the last step.
        timing: how long it took.
    """

    trial: Trial
    curve: tuple[Point, ...]
    validation: Evaluation | None
    test: Evaluation | None
    diverged_at: int | None
    state_bytes: int
    timing: Timing = field(compare=False)


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate at `step` of 1 .. `steps`.

    It climbs linearly to 1 over the first 5 % of the steps and falls linearly towards 0, which it
    would reach one step after the last.
    """
    warm_up = max(1, round(WARM_UP * steps))
    return min(step / warm_up, (steps + 1 - step) / (steps + 1 - warm_up))


def run(trial: Trial, workload: Workload) -> Record:
    """Trains once and evaluates; a loss that is not finite ends the run and is recorded.

    Raises:
        ValueError: the workload gave fewer batches than the steps it states.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = workload.model(trial.seed)
        # Seeded again, so that what a model draws while it trains (dropout) does not depend on how
        # many numbers its initialisation drew.
        torch.manual_seed(trial.seed)
        return _train(trial, workload, model)


def _train(trial: Trial, workload: Workload, model: nn.Module) -> Record:
    optimizer = trial.space.build(model.parameters(), trial.lr)
    curve = [Point(0, None, _evaluate(workload, model, "validation").metric)]
    validation: Evaluation | None = None
    diverged_at: int | None = None
    losses: list[float] = []
    seconds: list[float] = []
    step_seconds: list[float] = []
    step = 0
    for step, batch in enumerate(islice(workload.batches(trial.seed), workload.steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * schedule(step, workload.steps)
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = workload.loss(model, batch)
        loss.backward()
        before_step = time.perf_counter()
        optimizer.step()
        ended = time.perf_counter()
        seconds.append(ended - started)
        step_seconds.append(ended - before_step)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            diverged_at = step
            break
        if step % workload.evaluate_every == 0 or step == workload.steps:
            validation = _evaluate(workload, model, "validation")
            if not all(map(math.isfinite, validation)):
                diverged_at = step
                break
            curve.append(Point(step, statistics.fmean(losses), validation.metric))
            losses = []
    if diverged_at is None and step < workload.steps:
        raise ValueError(f"workload {workload.name!r} gave {step} batches but states {workload.steps} steps")
    finished = diverged_at is None
    return Record(
        trial=trial,
        curve=tuple(curve),
        validation=validation if finished else None,
        test=_evaluate(workload, model, "test") if finished and trial.stage == "final" else None,
        diverged_at=diverged_at,
        state_bytes=_state_bytes(optimizer),
        timing=Timing(sum(seconds), 1000 * statistics.median(step_seconds)),
    )


def _evaluate(workload: Workload, model: nn.Module, split: Split) -> Evaluation:
    model.eval()
    with torch.no_grad():
        evaluation = workload.evaluate(model, split)
    model.train()
    return evaluation


def _state_bytes(optimizer: Optimizer) -> int:
    tensors = (
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
