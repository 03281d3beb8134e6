"""A whole comparison, from what was asked for to the result, for the command line and for Python."""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

import thalweg
from thalweg.lab import spaces as spaces_
from thalweg.lab.comparing import budget
from thalweg.lab.errors import TrialError
from thalweg.lab.judging import verdict
from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.running import execution
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.running.store import Store
from thalweg.lab.showing import results
from thalweg.lab.showing.result import Result
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Recipe, Space
from thalweg.lab.study.looks import looks_up_to
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Margin, Settings, Study, margin_of
from thalweg.lab.workload import Workload, shipped, tasks
from thalweg.lab.workload.contract import option

MOST_SEED = 2**32 - 1
"""The largest seed that the quasi-random points take."""

Watch = Callable[[Study, list[Trial]], Any]

OPTIMIZERS = ("sgd", "rmsprop", "adamw")
"""What is compared unless something else is asked for."""

TRIALS, SEEDS = 16, 24
"""Configurations of each optimizer and at most so many fresh seeds, unless asked otherwise or too few to
tell."""


@dataclass(frozen=True)
class Task:
    """A workload and where it comes from.

    Attributes:
        workload: what is trained.
        reference: how it is found again; empty for an object that was passed from Python.
        file: the user's own file that it lies in, if it does.
        data: where its data lie, if that was said.
    """

    workload: Workload
    reference: str = ""
    file: Path | None = None
    data: Path | None = None


@dataclass(frozen=True)
class Options:
    """How much is spent, and how.

    Attributes:
        trials: configurations tried for each optimizer; None for 16, or what the budget buys.
        seeds: fresh seeds at most; None for 24 (more if a verdict needs more), or what the budget buys.
        budget: seconds that the whole may take; None for no limit.
        margin: the smallest difference worth having; None for the workload's.
        seed: from it come all seeds and configurations.
        storage: where the study is kept; see `thalweg.lab.running.store.address`.
        fresh: whether to forget what an earlier run of the same comparison has measured.
        limit: seconds after which a run counts as hung; None to judge by those that ended.
        command: what was typed or called, for the record.
    """

    trials: int | None = None
    seeds: int | None = None
    budget: float | None = None
    margin: Margin | None = None
    seed: int = 0
    storage: str = "sqlite://"
    fresh: bool = False
    limit: float | None = None
    command: str = ""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the comparison; `result` is what there is."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def find(reference: str, data: Path | None = None) -> Task:
    """The task of that name, or in that file.

    Raises:
        ValueError: there is none, or it is not what a task must be.
    """
    if tasks.is_file(reference):
        if data is not None:
            raise ValueError(f"--data is for the built-in workloads; {reference!r} finds its own data")
        path, name = tasks.parse(reference)
        file = path.absolute()
        whole = f"{file}:{name}" if name else str(file)
        return Task(tasks.load(whole), whole, file)
    return Task(shipped.find(reference, data), reference, data=data)


def choose(
    optimizers: Sequence[str | Space | Recipe],
    workload: Workload,
    argument: str = "optimizers",
    recipes: Sequence[str] = (),
) -> list[Space]:
    """The spaces of these recipes of the task and of these optimizers, each once, in that order.

    Raises:
        ValueError: one is not known, or there are fewer than two.
    """
    try:
        named = spaces_.resolve(
            [name.strip() for name in recipes], option(workload, "recipes"), workload.spaces
        )
    except ValueError as error:
        raise ValueError(f"{argument.replace('optimizers', 'recipes')}: {error}") from None
    try:
        found = [*named, *(_space(one, workload) for one in optimizers)]
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    unique = list({space.name: space for space in found}.values())
    if len(unique) < 2:
        names = ",".join(space.name for space in found)
        raise ValueError(f"{argument}: a comparison takes at least two, not {names!r}")
    return unique


def _space(one: str | Space | Recipe, workload: Workload) -> Space:
    if isinstance(one, Recipe):
        return one.space(workload.spaces)
    return one if isinstance(one, Space) else spaces_.find(one.strip(), workload.spaces)


def at_least_one(argument: str, count: int | None) -> int | None:
    """A count that was given, or None.

    Raises:
        ValueError: it is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, not {count}")
    return count


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


def check(options: Options, prefix: str = "") -> None:
    """Sees whether options agree with each other.

    Raises:
        ValueError: they do not; the message names them, each with `prefix` before it.
    """
    for name in ("trials", "seeds"):
        at_least_one(prefix + name, getattr(options, name))
        if options.budget is not None and getattr(options, name) is not None:
            raise ValueError(f"{prefix}{name} cannot be given with {prefix}budget, which chooses it")
    if not 0 <= options.seed <= MOST_SEED:
        raise ValueError(f"{prefix}seed must be a whole number from 0 to {MOST_SEED}, not {options.seed}")
    for name in ("budget", "limit"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{prefix}{name} must be a number of seconds above 0, not {value}")


def compare(
    task: Task,
    spaces: Sequence[Space],
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    watch: Watch,
) -> Result:
    """Runs a comparison, or what is left of one that was begun before.

    Args:
        task: what is trained.
        spaces: the optimizers, all different.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user, such as what a budget buys.
        watch: called with the study so far and the trials under way.

    Raises:
        thalweg.lab.workload.tasks.TaskError: a user's own workload cannot be trained; nothing was written.
        Interrupted: Ctrl-C; it holds the result so far.
        thalweg.lab.errors.TrialError: the workload raised an exception.
        thalweg.lab.errors.StoreError: the storage failed.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    workload = task.workload
    if task.file is not None or not task.reference:
        tasks.smoke(workload, task.file)
    rehearse(workload, spaces, task.file)
    pool.load(workload, task.file, spaces)
    name = f"{workload.name}-{fingerprint(task, spaces, options)}"
    store = Store(options.storage, name, higher_is_better=workload.higher_is_better, fresh=options.fresh)
    spent = store.agreed() or store.agree(_spend(task, spaces, options, pool.workers))
    if spent["bought"]:
        say(spent["bought"])
    fewest = fewest_seeds(len(spaces))
    if spent["seeds"] < fewest:
        say(f"{len(spaces)} optimizers need {fewest} seeds for a verdict, not {spent['seeds']}")
    margin = options.margin or margin_of(workload)
    # A study that was begun without looks goes on without.
    settings = Settings(
        spent["trials"], spent["seeds"], margin, options.seed, looks=tuple(spent.get("looks", ()))
    )
    study = Study(workload, settings, tuple(spaces))
    found = len(store.records())
    if found:
        say(f"going on from {found} runs that were made before")
    interrupted = False
    try:
        study = execution.execute(study, store, pool, limit=options.limit, watch=watch)
    except KeyboardInterrupt:
        interrupted = True
        study, _ = execution.gather(study, store)
    finally:
        store.close()
    provenance = Provenance(
        started,
        time.monotonic() - clock,
        pool.workers,
        results.environment(),
        command=options.command,
        task=task.reference,
        data=None if task.data is None else str(task.data),
        bought=spent["bought"],
        found=found,
    )
    result = Result(study, verdict.judge(study), provenance)
    if interrupted:
        raise Interrupted(result)
    return result


def fingerprint(task: Task, spaces: Sequence[Space], options: Options) -> str:
    """Twelve hexadecimal digits that are equal if and only if the records would be."""
    workload = task.workload
    parts = {
        "thalweg": thalweg.__version__,
        "torch": torch.__version__,
        "workload": workload.name,
        "source": [_source(task), dict(workload.facts())],
        "object": [type(workload).__qualname__, _state(workload)],
        "steps": [workload.steps, workload.evaluate_every, workload.batch_size, workload.clip_norm],
        "spaces": [
            [
                space.name,
                space.optimizer,
                [repr(axis) for axis in space.axes],
                repr(space.fixed),
                *_more(space),
            ]
            for space in spaces
        ],
        "spent": [options.trials, options.seeds, options.budget, options.seed],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _more(space: Space) -> list[Any]:
    """What a recipe or a class from a notebook adds; nothing for spaces as they mostly are."""
    changes = [f"{key}={_digest(value)}" for key, value in sorted(space.changes.items())]
    source = []
    with suppress(OSError, TypeError):
        source = [inspect.getsource(space.maker)] if space.maker is not None else []
    return [*changes, *source, *([space.closure] if space.closure is not None else [])]


def _state(workload: Workload) -> dict[str, str]:
    """What tells an object from others of its class, by attribute.

    What is computed when it is first asked for is left out, and so is what has no value to compare.
    """
    attributes: dict[str, Any] = getattr(workload, "__dict__", {})
    return {
        name: _digest(value)
        for name, value in sorted(attributes.items())
        if not isinstance(getattr(type(workload), name, None), cached_property)
    }


def _digest(value: Any) -> str:
    """Equal for equal values, on every machine: of numbers, texts, arrays, and of what holds them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.numpy() if value.dtype != torch.bfloat16 else value.float().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_digest(key)}: {_digest(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_digest, value))}]"
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(_digest, value))}"
    if value is None or isinstance(value, str | bytes | int | float | complex | PurePath | np.generic):
        return repr(value)
    return type(value).__qualname__


def _source(task: Task) -> str:
    """The text that a workload comes from or, where there is none to be found, nothing."""
    if task.file is not None:
        return task.file.read_text(encoding="utf-8")
    text = ""
    for kind in type(task.workload).__mro__:
        with suppress(OSError, TypeError):
            text += inspect.getsource(kind) if kind is not Workload else ""
    return text


def _spend(task: Task, spaces: Sequence[Space], options: Options, workers: int) -> dict[str, Any]:
    if options.budget is None:
        trials = TRIALS if options.trials is None else options.trials
        enough = max(SEEDS, fewest_seeds(len(spaces)))
        seeds = enough if options.seeds is None else options.seeds
        return {"trials": trials, "seeds": seeds, "looks": looks_up_to(seeds), "bought": ""}
    try:
        bought = budget.buy(task.workload, spaces, options.budget, workers)
    except Exception as error:
        raise TrialError(tasks.told(error, task.file)) from error
    looks = looks_up_to(bought.seeds)
    return {"trials": bought.trials, "seeds": bought.seeds, "looks": looks, "bought": bought.text}
