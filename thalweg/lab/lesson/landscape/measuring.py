"""Trains from one start with three optimizers, and measures the loss over the planes that they span."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.lab import landscape as maths
from thalweg.lab.landscape import barrier, evaluated_at, flat
from thalweg.lab.landscape.vectors import Closure
from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.experiment import SEED, shortened
from thalweg.lab.lesson.landscape.file import Between, Course, Landscape, View
from thalweg.lab.lesson.landscape.rates import rate_of
from thalweg.lab.running.training import Training
from thalweg.lab.showing.results import environment
from thalweg.lab.spaces import Space
from thalweg.lab.workload import Workload, chance

WORKLOADS: Mapping[str, Callable[[], Workload]] = {"digits": workloads.digits, "text": workloads.text}
"""One of images and one of text."""

ARMS = (arms.SGD_MOMENTUM, arms.ADAM, arms.RMSPROP)


@dataclass(frozen=True)
class Size:
    """How finely is measured.

    Attributes:
        grid: points along each side of a plane.
        line: points on a line between two ends.
        batches: of training data, on which each loss is measured.
        kept: how often on the way weights are kept, the start and the end among them.
    """

    grid: int
    line: int
    batches: int
    kept: int


SIZES = {"digits": Size(41, 25, 22, 25), "text": Size(31, 25, 6, 25)}
"""Of digits, 22 batches are a pass through the training data; of text, a loss takes far longer."""

QUICK = Size(5, 5, 2, 4)

LOSS_SEED = 1
"""Of the batches on which losses are measured."""

AIR = 0.25
"""How far a plane goes on beyond what lies on it, as a share of that."""

PRODUCTS = 40
"""With the Hessian at most, for an eigenvalue."""

Say = Callable[[str], Any]


def measure(folder: Path, name: str, *, quick: bool = False, say: Say = lambda text: None) -> Landscape:
    """Measures the landscape of a workload.

    Args:
        folder: of the lesson, whose records tell the best rates.
        name: of `WORKLOADS`.
        quick: whether to take few steps and points, to see that it works.
        say: called with lines for the user.

    Raises:
        ValueError: there is no such workload, a file of records is damaged, or data cannot be had.
    """
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}; there are: {', '.join(WORKLOADS)}")
    workload, size = WORKLOADS[name](), SIZES[name]
    rates = {space.name: rate_of(folder, workload, space) for space in ARMS}
    if quick:
        workload, size = shortened(workload), QUICK
    with chance.left_alone(torch.device("cpu")), _one_thread():
        return _measured(workload, size, rates, say)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as in the lab's processes: models are small, and sums are in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measured(workload: Workload, size: Size, rates: Mapping[str, tuple[float, str]], say: Say) -> Landscape:
    chance.seed_all(SEED)
    model = workload.model(SEED)
    params = [param for param in model.parameters() if param.requires_grad]
    losses = _losses(workload, model, size.batches)
    at = evaluated_at(params, losses)
    paths: dict[str, list[Tensor]] = {}
    courses = []
    for space in ARMS:
        rate, origin = rates[space.name]
        say(f"{workload.name}: {space.line(space.settings({'lr': rate}))}")
        steps, paths[space.name], metric = _path(workload, space, rate, size.kept)
        seen = torch.stack([at(weights) for weights in paths[space.name]])
        sharp = _sharpness(model, params, losses, paths[space.name][-1])
        courses.append(
            Course(
                space.name,
                space.line(space.settings({"lr": rate})),
                rate,
                origin,
                steps,
                seen.mean(1).tolist(),
                _errors(seen).tolist(),
                metric,
                sharp.value,
                sharp.residual,
            )
        )
    start = paths[ARMS[0].name][0]
    pairs = list(combinations(paths, 2))
    return Landscape(
        workload.name,
        workload.title,
        workload.metric,
        workload.unit,
        start.numel(),
        SEED,
        len(losses),
        workload.batch_size,
        _sharpness(model, params, losses, start).value,
        courses,
        [_view(pair, paths, at, size.grid, say) for pair in pairs],
        [_between(pair, paths, at, size.line) for pair in pairs],
        {"when": datetime.now().astimezone().isoformat(timespec="minutes"), **environment()},
    )


def _losses(workload: Workload, model: nn.Module, count: int) -> list[Closure]:
    """The training loss on each of some batches, in evaluation mode: nothing random is in it."""
    model.eval()
    batches = list(islice(iter(workload.batches(LOSS_SEED)), count))
    return [lambda batch=batch: workload.loss(model, batch) for batch in batches]  # type: ignore[misc]


def _path(workload: Workload, space: Space, rate: float, kept: int) -> tuple[list[int], list[Tensor], float]:
    """Trains once, as every run of the lab does, and keeps the weights on the way."""
    chance.seed_all(SEED)
    model = workload.model(SEED)
    chance.seed_all(SEED)
    training = Training(workload, model, space, space.settings({"lr": rate}), SEED)
    params = [param for param in model.parameters() if param.requires_grad]
    wanted = _wanted(workload.steps, kept)
    steps, path = [0], [flat(params).clone()]
    for _ in islice(training.steps(), workload.steps):
        if training.step in wanted:
            steps.append(training.step)
            path.append(flat(params).clone())
    with training.evaluating():
        metric = workload.evaluate(model, "validation").metric
    return steps, path, metric


def _wanted(steps: int, kept: int) -> set[int]:
    """Steps at which weights are kept, closer together at first, where most happens."""
    return {round(steps * (place / (kept - 1)) ** 2) for place in range(1, kept)} - {0}


def _sharpness(
    model: nn.Module, params: Sequence[Tensor], losses: Sequence[Closure], weights: Tensor
) -> maths.Sharpness:
    """The largest eigenvalue at some weights; the model is left as it was."""
    before = flat(params).clone()
    try:
        _put(params, weights)
        return maths.sharpness(params, losses, products=PRODUCTS)
    finally:
        _put(params, before)
        model.zero_grad()


@torch.no_grad()
def _put(params: Sequence[Tensor], weights: Tensor) -> None:
    for param, value in zip(params, maths.parts(weights, params), strict=True):
        param.copy_(value)


def _view(
    ends: Sequence[str],
    paths: Mapping[str, Sequence[Tensor]],
    at: Callable[[Any], Tensor],
    points: int,
    say: Say,
) -> View:
    say(f"the plane through the start and the ends of {' and '.join(ends)}")
    plane = maths.plane(paths[ends[0]][0], [paths[name][-1] for name in ends])
    seen = {name: plane.project(path) for name, path in paths.items()}
    xs, ys = _sides(torch.cat([one.coordinates for one in seen.values()]), points)
    grid = plane.losses(at, xs, ys)
    return View(
        list(ends),
        xs,
        ys,
        grid.losses.tolist(),
        grid.errors.tolist(),
        {name: one.coordinates.tolist() for name, one in seen.items()},
        {name: one.distances.tolist() for name, one in seen.items()},
        {name: one.shares.tolist() for name, one in seen.items()},
    )


def _sides(coordinates: Tensor, points: int) -> tuple[list[float], list[float]]:
    """Both sides of a square around all that lies on the plane."""
    low, high = coordinates.min(0).values, coordinates.max(0).values
    half = float((high - low).max()) * (1 + AIR) / 2
    middle = (low + high) / 2
    first, second = (torch.linspace(float(m) - half, float(m) + half, points).tolist() for m in middle)
    return first, second


def _between(
    ends: Sequence[str], paths: Mapping[str, Sequence[Tensor]], at: Callable[[Any], Tensor], points: int
) -> Between:
    line = barrier(paths[ends[0]][-1], paths[ends[1]][-1], at, points)
    return Between(
        list(ends),
        line.positions.tolist(),
        line.losses.tolist(),
        line.errors.tolist(),
        line.height,
        line.height_error,
    )


def _errors(seen: Tensor) -> Tensor:
    """Standard errors of means over the batches, (points, batches) to (points,)."""
    return seen.std(1) / seen.shape[1] ** 0.5
