"""A whole comparison, from what was asked for to the result, for the command line and for Python."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral
from pathlib import Path
from typing import Any

from thalweg.lab import spaces as spaces_
from thalweg.lab.comparing import budget, former, group, optimizers
from thalweg.lab.comparing.identity import Identity, changed, identify
from thalweg.lab.judging import doubts, verdict
from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.running import execution
from thalweg.lab.running.explaining import credits
from thalweg.lab.running.limits import within
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.running.store import Store
from thalweg.lab.showing import results
from thalweg.lab.showing.result import Result
from thalweg.lab.showing.results import Provenance
from thalweg.lab.spaces import Recipe, Space
from thalweg.lab.study import protocol
from thalweg.lab.study.looks import looks_up_to
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import Margin, Settings, Study, margin_of
from thalweg.lab.workload import Workload, shipped, tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import Doubt, TrialError

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
    names: Sequence[str | Space | Recipe],
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
        found = [*named, *(_space(one, workload) for one in names)]
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
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    started, clock = datetime.now().astimezone(), time.monotonic()
    workload = task.workload
    begun = begin(task, spaces, options, pool, say=say)
    spent = begun.store.agreed() or begun.store.agree(
        {**_spend(task, spaces, options, pool), "early_stop": options.early_stop}
    )
    if spent["bought"]:
        say(spent["bought"])
    fewest = fewest_seeds(len(spaces))
    if spent["seeds"] < fewest:
        say(f"{len(spaces)} optimizers need {fewest} seeds for a verdict, not {spent['seeds']}")
    margin = options.margin or margin_of(workload)
    # A study that was begun without looks, or without ending trials early, goes on without.
    settings = Settings(
        spent["trials"],
        spent["seeds"],
        margin,
        options.seed,
        looks=tuple(spent.get("looks", ())),
        early_stop=spent.get("early_stop", False),
    )
    pool.early_stop = settings.early_stop
    study = Study(workload, settings, tuple(spaces))

    def watched(study: Study, running: list[Trial]) -> None:
        pool.credits = credits(study, pool.workers) if options.why else None
        watch(study, running)

    pool.credits = {} if options.why else None
    study, warnings, finished = carry_out(
        study, begun, options, pool, say=say, watch=watched, planned=spent.get("seconds", 0.0)
    )
    provenance = Provenance(
        started,
        time.monotonic() - clock,
        pool.workers,
        results.environment(),
        command=options.command,
        task=task.reference,
        data=None if task.data is None else str(task.data),
        bought=spent["bought"],
        found=begun.found,
        warnings=warnings,
    )
    result = Result(study, verdict.judge(study), provenance)
    if not finished:
        raise Interrupted(result)
    return result


@dataclass(frozen=True)
class Begun:
    """A study that was begun now or before.

    Attributes:
        store: its storage, open.
        known: what is doubtful before the first run.
        found: runs that were made before.
    """

    store: Store
    known: Sequence[Doubt]
    found: int


def begin(
    task: Task,
    spaces: Sequence[Space],
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    kind: str = "",
) -> Begun:
    """Tries task and optimizers, gives them to the processes, and opens the study or finds it again.

    Args:
        task: what is trained.
        spaces: what is compared, all different.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user.
        kind: what tells this study from a comparison of the same spaces.

    Raises:
        ValueError, thalweg.lab.workload.tasks.TaskError: it cannot work; nothing was written.
        thalweg.lab.StoreError: the storage failed.
    """
    workload, asked = task.workload, [*_asked(options), *([kind] if kind else [])]
    identity = _identity(task, spaces, asked)
    known = list(_tried(task, spaces, options, pool))
    former_name = former.fingerprint(workload, task.file, spaces, asked)
    store = Store(
        options.storage,
        f"{workload.name}-{identity.digest}",
        higher_is_better=workload.higher_is_better,
        fresh=options.fresh,
        former=f"{workload.name}-{former_name}",
    )
    store.say = say
    found = len(store.records())
    _keep_runs(pool, options, store.name, option(workload, "processes"), say)
    return Begun(store, known + _compared_with_before(store, identity, found), found)


def carry_out(
    study: Study,
    begun: Begun,
    options: Options,
    pool: Pool,
    *,
    say: Callable[[str], Any],
    watch: Watch,
    plan: execution.Plan = protocol.due,
    planned: float = 0.0,
) -> tuple[Study, list[Doubt], bool]:
    """Runs what is left of a study, until nothing is or Ctrl-C ends it; closes the storage.

    Args:
        study: as it was asked for.
        begun: what `begin` gave.
        options: how much is spent.
        pool: the processes that train.
        say: called with lines for the user.
        watch: called with the study so far and the trials under way.
        plan: names the runs; by default those of a comparison.
        planned: the seconds of a run that a budget was spread with.

    Returns:
        The study with its records, what is doubtful, and whether it came to its end.

    Raises:
        thalweg.lab.TrialError: the workload raised an exception.
        thalweg.lab.StoreError: the storage failed.
    """
    if begun.found:
        say(f"going on from {begun.found} runs that were made before")
    warnings = Warnings(begun.known, say, planned)

    def watched(study: Study, running: list[Trial]) -> None:
        warnings.look(study)
        watch(study, running)

    finished = True
    try:
        study = execution.execute(study, begun.store, pool, plan=plan, limit=options.limit, watch=watched)
    except KeyboardInterrupt:
        finished = False
        study, _ = execution.gather(study, begun.store, plan)
    finally:
        begun.store.close()
    if finished and not study.lost:
        pool.forget_all()
    return study, warnings.of(study), finished


def _keep_runs(pool: Pool, options: Options, study: str, processes: int, say: Callable[[str], Any]) -> None:
    """Has the runs of a study kept while they are under way, and tells what others have left there."""
    pool.say = say
    if processes > 1:
        for line in pool.limits():
            say(line)
    place = pool.keep_in(options.checkpoints, study)
    if options.fresh:
        place.clear()
    if others := place.others():
        megabytes = sum(file.stat().st_size for file in others) / 1e6
        say(
            f"{place.folder} has {counted(len(others), 'checkpoint')} of other studies ({megabytes:.3g} MB), "
            "which are passed over"
        )


class Warnings:
    """What is doubtful, told as soon as it is known, each once."""

    def __init__(self, known: Sequence[Doubt], say: Callable[[str], Any], planned_seconds: float) -> None:
        self._known, self._say, self._planned = list(known), say, planned_seconds
        self._told: set[str] = set()
        self._records = -1
        self._tell(self._known)

    def look(self, study: Study) -> None:
        """Tells what the records there are make doubtful."""
        if len(study.records) != self._records:
            self._records = len(study.records)
            self._tell(doubts.doubts(study, self._planned))

    def of(self, study: Study) -> list[Doubt]:
        """All of them, for the record."""
        return list(dict.fromkeys([*self._known, *doubts.doubts(study, self._planned)]))

    def _tell(self, found: Sequence[Doubt]) -> None:
        for doubt in found:
            if doubt.kind not in self._told or doubt in self._known:
                self._say(f"warning: {doubt.text}")
        self._told |= {doubt.kind for doubt in found}


def fingerprint(task: Task, spaces: Sequence[Space], options: Options) -> str:
    """Twelve hexadecimal digits that are equal if and only if the records would be."""
    return _identity(task, spaces, _asked(options)).digest


def _identity(task: Task, spaces: Sequence[Space], asked: Sequence[Any]) -> Identity:
    try:
        return identify(task.workload, task.file, spaces, asked)
    except Exception as error:
        raise TrialError(tasks.told(error, task.file)) from error


def _asked(options: Options) -> list[Any]:
    whole = [] if options.early_stop else ["no early stop"]
    return [options.trials, options.seeds, options.budget, options.seed, *whole]


def _tried(task: Task, spaces: Sequence[Space], options: Options, pool: Pool) -> tuple[Doubt, ...]:
    """Tries the task and every optimizer, and gives the task to the processes, before anything is written."""
    try:
        # As it is before it is tried: what that leaves on the task reaches no run.
        pool.load(task.workload, task.file, spaces)
    except Exception:
        # Trying it tells in clear words what cannot be sent.
        tasks.smoke(task.workload, task.file)
        raise
    if option(task.workload, "processes") > 1:
        with within(options.limit and options.limit * (1 + len(spaces)), "trying the task"):
            tried: tuple[Doubt, ...] = pool.call(group.try_out, options.trials or TRIALS, options.seed)
        return tried
    found: tuple[Doubt, ...] = ()
    with _prints_kept(getattr(pool, "logs", None)):
        if task.file is not None or not task.reference:
            with within(options.limit, "trying the task"):
                found = tasks.smoke(task.workload, task.file)
        with within(options.limit and options.limit * len(spaces), "trying the optimizers"):
            rehearse(task.workload, spaces, task.file)
            optimizers.try_all(task.workload, spaces, options.trials or TRIALS, options.seed)
    return found


@contextmanager
def _prints_kept(logs: Path | None) -> Iterator[None]:
    """What the task prints while it is tried goes where its runs' prints go."""
    if logs is None:
        yield
        return
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue():
            logs.mkdir(parents=True, exist_ok=True)
            (logs / "trying.log").write_text(printed.getvalue(), encoding="utf-8")


def _compared_with_before(store: Store, identity: Identity, found: int) -> list[Doubt]:
    """What is to be told of how this comparison relates to those that were made before."""
    before = store.noted()
    if not before and store.agreed() is None:
        store.note({"depends": dict(identity.parts), "files": dict(identity.files)})
        others = (changed(other.get("depends", {}), identity.parts) for other in store.others())
        what = next(filter(None, others), "")
        return [Doubt("another study", f"Another study than the one before, for {what}.")] if what else []
    if not before:
        text = (
            "These runs were begun by an earlier version, which looked at no other file than the task's: "
            "whether a module, an optimizer or a package has changed since is not known. --fresh starts anew."
        )
        return [Doubt("unknown", text)]
    told = []
    files = [name for name, digest in before.get("files", {}).items() if identity.files.get(name) != digest]
    if files:
        text = f"{listed(files)} changed since the first run: if the task reads it, --fresh starts anew."
        told.append(Doubt("files", text))
    if identity.unknown and found:
        text = f"It cannot be known whether {listed(identity.unknown[:4])} is the same as in the runs before."
        told.append(Doubt("unknown", text))
    return told


def _spend(task: Task, spaces: Sequence[Space], options: Options, pool: Pool) -> dict[str, Any]:
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
            return [budget.cost(task.workload, space) for space in spaces]
    except TrialError:
        raise
    except (Exception, SystemExit) as error:
        raise TrialError(tasks.told(error, task.file)) from error
