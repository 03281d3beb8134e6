"""A workload that trains in milliseconds, and studies with made-up results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.lab import spaces
from thalweg.lab.running.trial import run
from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Failure, Point, Record, Stage, Timing, Trial
from thalweg.lab.study.study import Margin, Settings, Study
from thalweg.lab.workload import Evaluation, Split, Workload


class Line(Workload):
    """Fits a line to noisy points. With a large `scale`, SGD overflows and the others do not."""

    name = "line"
    title = "a line through noisy points"
    metric = "error"
    margin = 0.01
    steps = 40
    evaluate_every = 8
    batch_size = 8

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


def trained(
    workload: Workload,
    optimizer: str = "thalweg.Adam",
    stage: Stage = "final",
    seed: int = 3,
    **settings: Any,
) -> Record:
    """A run of any workload with these arguments of an optimizer."""
    return run(Trial(stage, "a run", optimizer, settings, settings, seed), workload)


DIVERGED = Failure("diverged", "the training loss is nan at step 3", 3)

Metrics = Callable[[Trial], float | None]
"""The metric that a trial is made up to have; None means that it diverged."""


def record(
    trial: Trial, validation: float | None, test: float | None = None, *, falls: bool = False
) -> Record:
    """A record with these metrics; None means that it diverged.

    Its learning curve comes ever closer to the validation metric: all, 1/2, 1/4, .. of it are missing
    or, where it `falls`, too much.
    """
    steps = range(0, Line.steps + 1, Line.evaluate_every)
    end, sign = 10.0 if validation is None else validation, 1 if falls else -1
    curve = tuple(
        Point(step, 1.0 if step else None, end * (1 + sign * 0.5**place) if step < Line.steps else end)
        for place, step in enumerate(steps)
    )
    failed = validation is None
    return Record(
        trial=trial,
        curve=curve[:1] if failed else curve,
        validation=None if validation is None else Evaluation(validation, 1.0),
        test=None if failed or test is None else Evaluation(test, 1.0),
        failure=DIVERGED if failed else None,
        state_bytes=8,
        timing=Timing(1.0, 1.2, 0.1, tuple(step / Line.steps for step in steps), "here"),
    )


def complete(study: Study, tuning: Metrics, tests: Metrics) -> Study:
    """Runs the protocol to its end with made-up metrics; in final runs, validation is like test."""
    records: list[Record] = []
    while True:
        study = study.holding(records)
        done = {record.trial.key for record in records}
        due = [trial for trial in protocol.due(study) if trial.key not in done]
        if not due:
            return study
        falls = not study.workload.higher_is_better
        for trial in due:
            final = trial.stage == "final"
            metric = tests(trial) if final else tuning(trial)
            records.append(record(trial, metric, metric if final else None, falls=falls))


def study(
    tests: Mapping[str, Sequence[float | None]],
    *,
    tuning: Mapping[str, Sequence[float | None]] | None = None,
    margin: float | Margin = 0.5,
    workload: Workload | None = None,
    own: Sequence[Space] = (),
) -> Study:
    """A complete study in which each optimizer has these test metrics, seed by seed (None: diverged).

    `tuning` holds the validation metrics from the lowest learning rate up; by default the middle one
    of three is the best. Trials beyond the first range have the worst of them, and confirmation runs
    what the same configuration had in tuning.
    """
    workload = workload or Scores()
    best = (50.0, 90.0, 60.0) if workload.higher_is_better else (3.0, 1.0, 2.0)
    tuning = tuning or dict.fromkeys(tests, best)
    settings = Settings(
        trials=len(next(iter(tuning.values()))),
        seeds=len(next(iter(tests.values()))),
        margin=margin if isinstance(margin, Margin) else Margin(margin),
    )
    empty = Study(workload, settings, [spaces.find(name, own) for name in tests])
    _, _, fresh = protocol.seeds(settings)
    found = {
        replace(trial, seed=0, stage="tune").key: metric
        for space in empty.spaces
        for trial, metric in zip(_by_rate(empty, space), tuning[space.name], strict=True)
    }
    worst = {
        name: min((m for m in metrics if m is not None), key=empty.better, default=None)
        for name, metrics in tuning.items()
    }
    return complete(
        empty,
        lambda trial: found.get(replace(trial, seed=0, stage="tune").key, worst[trial.name]),
        lambda trial: tests[trial.name][fresh.index(trial.seed)],
    )


def _by_rate(empty: Study, space: Space) -> list[Trial]:
    """The trials of an optimizer's first range, from the lowest learning rate up."""
    trials = [trial for trial in protocol.due(empty) if trial.name == space.name]
    return sorted(trials, key=lambda trial: trial.lr)
