"""What a time budget buys: how many trials and seeds, from the measured cost of a run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.running import trial as trials
from thalweg.lab.spaces import Space
from thalweg.lab.study.protocol import CANDIDATES, CONFIRMATION_SEEDS
from thalweg.lab.study.record import Trial
from thalweg.lab.workload import Workload

PILOT_STEPS = 20
"""Steps of the short runs by which the cost of a whole one is estimated."""

START_SECONDS = 5.0
"""What a comparison takes beside its runs: processes start, a report is written."""

RESERVE = 1.15
"""Runs side by side are slower than the pilot, which runs alone."""

SEEDS_SHARE = 0.35
"""The share of an optimizer's runs that is spent on fresh seeds."""

MOST_SEEDS, MOST_TRIALS = 24, 64
"""Beyond these a budget is left unspent."""


@dataclass(frozen=True)
class Bought:
    """What is spent on each optimizer, and in words; `seconds` is what a run was found to take."""

    trials: int
    seeds: int
    text: str
    seconds: float = 0.0


def seconds(text: str | float, argument: str) -> float:
    """The seconds in a duration: ``90``, ``90s``, ``10m``, ``1h30m``; ``1h30`` too means 30 minutes.

    A number is one of seconds, and as a float names the same study as its text.

    Raises:
        ValueError: it is no duration, or none above zero; the message names the argument.
    """
    if not isinstance(text, str):
        return float(text)
    text = re.sub(r"(h\d+)$", r"\1m", text.strip())
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    total = parts and sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
    if not total:
        raise ValueError(f"{argument}: a duration looks like 90s, 10m or 1h30m, not {text!r}")
    return float(total)


def buy(costs: Sequence[float], budget: float, workers: int) -> Bought:
    """Spreads `budget` seconds over trials and seeds, by what a run of each optimizer costs (`cost`).

    About a third of the runs goes to fresh seeds, of which there are at least as many as a verdict needs
    where the budget allows. One extension of a range is paid for in advance.
    """
    trials, seeds = spread(int(capacity(budget, workers) / sum(costs)), fewest_seeds(len(costs)))
    runs = len(costs) * (trials + seeds + (CANDIDATES * CONFIRMATION_SEEDS if trials > 1 else 0))
    return Bought(
        trials,
        seeds,
        f"a budget of {duration(budget)} buys {trials} configurations and up to {seeds} seeds for each of "
        f"{len(costs)} optimizers: at most {runs} runs of about {sum(costs) / len(costs):.2g} s, "
        f"{workers} at a time",
        sum(costs) / len(costs),
    )


def capacity(budget: float, workers: int) -> float:
    """The seconds of runs, each measured alone, that fit into a budget."""
    return max(0.0, budget - START_SECONDS) * workers / RESERVE


def spread(runs: int, fewest: int) -> tuple[int, int]:
    """How many of one optimizer's runs are trials, and how many seeds; at least one of each."""
    confirmation = CANDIDATES * CONFIRMATION_SEEDS
    left = runs - confirmation
    seeds = min(MOST_SEEDS, max(fewest, round(SEEDS_SHARE * left)))
    # A quarter more trials are held back for an extension.
    trials = min(MOST_TRIALS, int((left - seeds) / 1.25))
    if trials >= CANDIDATES:
        return trials, seeds
    trials = runs // 3
    seeds = runs - trials - confirmation
    return (trials, seeds) if trials >= CANDIDATES and seeds >= 1 else (1, max(1, runs - 1))


def cost(workload: Workload, space: Space) -> float:
    """The seconds of a whole run on one thread, estimated from a short one."""
    workload, space = space.applied(workload), replace(space, changes={})
    steps = min(PILOT_STEPS, workload.steps)
    middle = space.middle()
    trial = Trial("tune", space.name, space.optimizer, space.settings(middle), middle, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first run of an optimizer compiles kernels and warms caches.
        records = [trials.run(trial, _Short(workload, steps), space=space) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    timing = records[-1].timing
    assert timing is not None
    step = timing.seconds / steps
    evaluation = (timing.total - timing.seconds) / 2
    evaluations = workload.steps / workload.evaluate_every
    return timing.total + step * (workload.steps - steps) + evaluation * max(0.0, evaluations - 1)


class _Short:
    """A workload with fewer steps and one evaluation at the end."""

    def __init__(self, workload: Workload, steps: int) -> None:
        self._workload = workload
        self.steps = self.evaluate_every = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)


def duration(total: float) -> str:
    """Seconds in words: ``1 h 30 min``."""
    hours, rest = divmod(round(total), 3600)
    minutes, left = divmod(rest, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (left, "s")) if n)
