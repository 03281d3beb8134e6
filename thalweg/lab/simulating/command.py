"""The `thalweg simulate` command behind its options."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import fmean

from thalweg.lab.simulating.families import FAMILIES, Family
from thalweg.lab.simulating.studies import Case, Outcome, cases, outcomes

CHUNK = 25
"""Studies that a process makes at a time."""

HEAD = (
    "family",
    "optimizers",
    "ahead, margin 0",
    "ahead, usual margin",
    "beyond the margin",
    "told a lead of 1.5",
    "interval covers",
    "seeds: equal",
    "seeds: lead",
)


@dataclass(frozen=True)
class Request:
    """What was asked for; see `thalweg simulate --help`."""

    families: str | None
    optimizers: str | None
    studies: int
    workers: int
    seed: int


def run(request: Request, say: Callable[[str], None]) -> None:
    """Simulates and gives the table line by line, as Markdown.

    Raises:
        ValueError: an option cannot be met; the message is for the user.
    """
    chosen = _chosen(request.families)
    counts = None if request.optimizers is None else _counts(request.optimizers)
    for name in ("studies", "workers"):
        if getattr(request, name) < 1:
            raise ValueError(f"--{name} must be a whole number of at least 1, not {getattr(request, name)}")
    say(f"| {' | '.join(HEAD)} |")
    say(f"|{'---|' * len(HEAD)}")
    for line in lines(chosen, counts, request):
        say(f"| {' | '.join(line)} |")


def lines(
    families: Sequence[Family], counts: Sequence[int] | None, request: Request
) -> Iterator[Sequence[str]]:
    """The rows of the table."""
    # Processes that are started afresh: torch's threads do not survive a fork.
    with ProcessPoolExecutor(request.workers, get_context("spawn")) as pool:
        for family in families:
            for count in counts or family.optimizers:
                made = [list(_made(pool, family, case, count, request)) for case in cases(family)]
                yield row(family, count, made)


def row(family: Family, count: int, made: Sequence[Sequence[Outcome]]) -> Sequence[str]:
    """One row from the outcomes of the four cases: shares of the studies, of the pairs for coverage."""
    equal, usual, behind, lead = made
    everything = [outcome for outcomes in made for outcome in outcomes]
    return (
        family.title,
        str(count),
        _percent([o.ahead for o in equal]),
        _percent([o.ahead for o in usual]),
        _percent([o.beyond for o in behind]),
        _percent([o.told for o in lead]),
        _percent([o.covered for o in everything]),
        f"{fmean(o.seeds for o in equal):.1f}",
        f"{fmean(o.seeds for o in lead):.1f}",
    )


def _made(
    pool: ProcessPoolExecutor, family: Family, case: Case, count: int, request: Request
) -> Iterator[Outcome]:
    starts = range(0, request.studies, CHUNK)
    chunk = partial(_chunk, family.name, case, count, request.studies, request.seed)
    for found in pool.map(chunk, starts):
        yield from found


def _chunk(name: str, case: Case, count: int, studies: int, seed: int, start: int) -> list[Outcome]:
    family = next(family for family in FAMILIES if family.name == name)
    numbers = range(start, min(studies, start + CHUNK))
    return list(outcomes(family, case, count, numbers, seed))


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * fmean(shares):.1f} %"


def _chosen(names: str | None) -> list[Family]:
    if names is None:
        return FAMILIES
    known = {family.name: family for family in FAMILIES}
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"--families: unknown family {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 2:
        raise ValueError(
            f"--optimizers must be whole numbers of at least 2, separated by commas, not {text!r}"
        )
    return counts
