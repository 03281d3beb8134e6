"""A study opened, or found again, under a name that is that of what its records depend on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.lab.comparing import former
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.identity import Identity, changed, identify
from thalweg.lab.comparing.spending import Options
from thalweg.lab.comparing.trying import tried
from thalweg.lab.judging.wording import counted, listed
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.store import Store
from thalweg.lab.spaces import Space
from thalweg.lab.workload import tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import Doubt, TrialError


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
    known = list(tried(task, spaces, options, pool))
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
