"""A workload that trains in milliseconds, and studies with made-up results."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from thalweg.lab import spaces
from thalweg.lab.study import Settings, Study, seeds
from thalweg.lab.trial import Point, Record, Timing, Trial
from thalweg.lab.workload import Evaluation, Split


class Line:
    """Fits a line to noisy points. With a large `scale`, SGD overflows and the others do not."""

    name = "line"
    title = "a line through noisy points"
    metric = "error"
    unit = ""
    difference_unit = ""
    higher_is_better = False
    margin = 0.01
    steps = 40
    evaluate_every = 8

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(2, 1)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            inputs = torch.randn(8, 2, generator=generator)
            noise = torch.randn(8, 1, generator=generator)
            yield inputs, inputs.sum(dim=1, keepdim=True) + 0.1 * noise

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return self.scale * (model(inputs) - targets).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1 if split == "test" else 2))
        error = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean().item()
        return Evaluation(error, error)

    def facts(self) -> Mapping[str, str]:
        return {"Data": "points <b>on</b> a line & noise"}


class Scores(Line):
    """What made-up results pretend to come from: accuracy in percent."""

    name = "scores"
    metric = "accuracy"
    unit = "%"
    difference_unit = "points"
    higher_is_better = True
    margin = 0.5


def record(trial: Trial, validation: float | None, test: float | None = None) -> Record:
    """A record with these metrics; None means that it diverged."""
    curve = tuple(
        Point(step, 1.0 if step else None, 10.0 + step)
        for step in range(0, Line.steps + 1, Line.evaluate_every)
    )
    return Record(
        trial=trial,
        curve=curve if validation is not None else curve[:1],
        validation=None if validation is None else Evaluation(validation, 1.0),
        test=None if test is None else Evaluation(test, 1.0),
        diverged_at=3 if validation is None else None,
        state_bytes=8,
        timing=Timing(1.0, 0.1),
    )


def study(
    tests: Mapping[str, Sequence[float | None]],
    *,
    tuning: Mapping[str, Sequence[float | None]] | None = None,
    margin: float = 0.5,
    workload: Line | None = None,
) -> Study:
    """A study in which each optimizer has these test metrics, seed by seed (None: diverged).

    `tuning` holds the validation metrics from the lowest learning rate up; by default the middle
    one of three is the best.
    """
    workload = workload or Scores()
    best = (50.0, 90.0, 60.0) if workload.higher_is_better else (3.0, 1.0, 2.0)
    tuning = tuning or dict.fromkeys(tests, best)
    settings = Settings(
        trials=len(next(iter(tuning.values()))),
        seeds=len(next(iter(tests.values()))),
        margin=margin,
    )
    tuning_seed, fresh = seeds(settings)
    asked = [spaces.find(name) for name in tests]
    return Study(
        workload=workload,
        settings=settings,
        spaces=asked,
        tuning=[
            record(Trial("tune", space, 0.001 * 2**place, tuning_seed), metric)
            for space in asked
            for place, metric in enumerate(tuning[space.name])
        ],
        final=[
            record(Trial("final", space, 0.002, seed), None if metric is None else 90.0, metric)
            for space in asked
            for seed, metric in zip(fresh, tests[space.name], strict=True)
        ],
    )
