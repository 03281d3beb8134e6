"""How much a comparison spends: what was said, whether it can be, and what a budget buys."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from thalweg.lab.comparing import budget, group
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.running.limits import within
from thalweg.lab.running.pool import Pool
from thalweg.lab.spaces import Space
from thalweg.lab.study.looks import looks_up_to
from thalweg.lab.study.study import Margin
from thalweg.lab.workload import tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import TrialError

MOST_SEED = 2**32 - 1
"""The largest seed that the quasi-random points take."""

TRIALS, SEEDS = 16, 24
"""Configurations of each optimizer and at most so many fresh seeds, unless asked otherwise or too few to
tell."""


@dataclass(frozen=True)
class Options:
    """How much is spent, and how.

    Attributes:
        trials: configurations tried for each optimizer; None for 16, or what the budget buys.
        seeds: fresh seeds at most; None for 24 (more if a verdict needs more), or what the budget buys.
        budget: seconds that the whole may take; None for no limit.
        margin: the smallest difference worth having; None for the workload's.
        seed: from it come all seeds and configurations.
        storage: where the study is kept; see `thalweg.lab.running.connecting.address`.
        fresh: whether to forget what an earlier run of the same comparison has measured.
        limit: seconds after which a run counts as hung; None to judge by those that ended.
        checkpoints: the folder of runs under way, so that one that is cut off goes on; None for one that ends
            with the processes.
        early_stop: whether hopeless trials are ended early; see `thalweg.lab.running.hopeless`.
        command: what was typed or called, for the record.
        why: whether to measure, beside the final runs, why they end where they end; the runs stay the same.
    """

    trials: int | None = None
    seeds: int | None = None
    budget: float | None = None
    margin: Margin | None = None
    seed: int = 0
    storage: str = "sqlite://"
    fresh: bool = False
    limit: float | None = None
    checkpoints: Path | None = None
    early_stop: bool = True
    command: str = ""
    why: bool = True


def check(options: Options, prefix: str = "") -> None:
    """Sees whether options agree with each other.

    Raises:
        ValueError: they do not; the message names them, each with `prefix` before it.
    """
    for name in ("trials", "seeds"):
        at_least_one(prefix + name, getattr(options, name))
        if options.budget is not None and getattr(options, name) is not None:
            raise ValueError(f"{prefix}{name} cannot be given with {prefix}budget, which chooses it")
    if not (_is_whole(options.seed) and 0 <= options.seed <= MOST_SEED):
        raise ValueError(f"{prefix}seed must be a whole number from 0 to {MOST_SEED}, not {options.seed!r}")
    for name in ("budget", "limit"):
        value = getattr(options, name)
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ValueError(f"{prefix}{name} must be a number of seconds above 0, not {value!r}")


def at_least_one(argument: str, count: int | None) -> int | None:
    """A count that was given, or None.

    Raises:
        ValueError: it is no whole number, or below 1.
    """
    if count is not None and not (_is_whole(count) and count >= 1):
        raise ValueError(f"{argument} must be a whole number of at least 1, not {count!r}")
    return count


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def parse_margin(argument: str, value: float | str | None) -> Margin | None:
    """A margin as it is typed: ``0.5`` in the metric's unit, or ``2%`` of the best mean.

    Raises:
        ValueError: it is neither, or below zero.
    """
    if value is None:
        return None
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{argument} must be a finite number of at least 0, perhaps with %, not {text!r}")
    return Margin(number / 100, relative=True) if text.endswith("%") else Margin(number)


def spend(task: Task, spaces: Sequence[Space], options: Options, pool: Pool) -> dict[str, Any]:
    """What a comparison agrees on with all who join it: trials, seeds, looks, and what a budget has bought.

    Raises:
        thalweg.lab.TrialError: a budget was given, and the task raised an exception.
    """
    if options.budget is None:
        trials = TRIALS if options.trials is None else options.trials
        enough = max(SEEDS, fewest_seeds(len(spaces)))
        seeds = enough if options.seeds is None else options.seeds
        return {"trials": trials, "seeds": seeds, "looks": looks_up_to(seeds), "bought": ""}
    bought = budget.buy(costs(task, spaces, options, pool), options.budget, pool.workers)
    return {
        "trials": bought.trials,
        "seeds": bought.seeds,
        "looks": looks_up_to(bought.seeds),
        "bought": bought.text,
        "seconds": bought.seconds,
    }


def costs(task: Task, spaces: Sequence[Space], options: Options, pool: Pool) -> list[float]:
    """Measures the seconds of a whole run with each optimizer, from a short one.

    Raises:
        thalweg.lab.TrialError: the task raised an exception, or it takes longer than the limit.
    """
    try:
        with within(options.limit and options.limit * 2 * len(spaces), "measuring what a run costs"):
            if option(task.workload, "processes") > 1:
                measured: list[float] = pool.call(group.costs, [space.name for space in spaces])
                return measured
            with tasks.alone(task.file):
                return [budget.cost(task.workload, space) for space in spaces]
    except TrialError:
        raise
    except (Exception, SystemExit) as error:
        raise TrialError(tasks.told(error, task.file)) from error
