"""A claim of the lesson as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores
from thalweg.lab.lesson.judging import measured
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.study.study import Study

Subject = Literal["SGD", "Adam", "RMSprop", "Examples", "In general"]


@dataclass(frozen=True)
class Line:
    """A figure beside the primary endpoint: it is shown and never decides.

    Attributes:
        name: what it is.
        text: what was found, in words.
    """

    name: str
    text: str


def told(name: str, values: Scores, scale: Scale) -> Line:
    """A secondary figure from its values on each seed: the mean with its 95 % interval."""
    verdict = measured(list(values.values()), scale.margin)
    if verdict.kind == "not run":
        return Line(name, "not run")
    ends = (
        f" ({' to '.join(map(scale.number, scale.ordered(verdict.low, verdict.high)))})"
        if verdict.low == verdict.low
        else ""
    )
    return Line(name, f"{scale.text(verdict.mean)}{ends}")


@dataclass(frozen=True)
class Counted:
    """What an exact claim comes to: it is counted, so no seeds are needed.

    Attributes:
        holds: whether the claim is right.
        text: what was counted, in a sentence.
        head: the columns of the table.
        rows: the table.
    """

    holds: bool
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Trio:
    """A complaint's endpoint without its remedy, with it, and of the best rival: larger is better."""

    without: Scores
    remedied: Scores
    rival: Scores


def trio_of(
    read: Callable[[Study, str], Scores],
    complaint: Experiment,
    remedy: Experiment,
    arms: tuple[str, str, str],
) -> Callable[[Found], Trio]:
    """What reads a trio off two experiments.

    Args:
        read: an arm of a study as numbers, larger is better.
        complaint: where the arm without the remedy was run, and the rival.
        remedy: where the arm with the remedy was run.
        arms: the arm without, with, and the rival.
    """
    without, remedied, rival = arms
    return lambda found: Trio(
        read(found[complaint.name], without),
        read(found[remedy.name], remedied),
        read(found[complaint.name], rival),
    )


@dataclass(frozen=True)
class Remedy:
    """Something against a disadvantage, measured on the endpoint of the complaint.

    Attributes:
        name: what it is called.
        what: how it is switched on, and what it costs, in a sentence.
        rival: what it is measured against: the best that knows the complaint not.
        experiments: runs beside those of the claim.
        trio: what the runs tell; None while there is nothing.
    """

    name: str
    what: str
    rival: str
    experiments: tuple[Experiment, ...]
    trio: Callable[[Found], Trio | None]


@dataclass(frozen=True)
class Claim:
    """One thing that the lesson says, and what decides whether it is so.

    Attributes:
        name: for example ``S+1``: of SGD, an advantage, the first.
        subject: of what it is said.
        says: the lesson's sentence, in our words.
        endpoint: what is measured, and how.
        scale: in what it is counted, and its margin.
        experiments: the runs that it needs.
        values: the primary endpoint on each seed, larger in favour of the claim.
        reads: what the endpoint's mean means, as the end of a sentence that begins with the number.
        conditions: on what it was tested, and what it does not say.
        exact: counts instead of measuring; then there are no experiments.
        secondary: what else the records tell.
        remedies: what was done about it, if it is a disadvantage.
        changed: what was altered after a result had been seen, and what had been seen by then.
    """

    name: str
    subject: Subject
    says: str
    endpoint: str
    scale: Scale | None = None
    experiments: tuple[Experiment, ...] = ()
    values: Callable[[Found], Scores] = lambda found: {}
    reads: str = ""
    conditions: str = ""
    exact: Callable[[], Counted] | None = None
    secondary: Callable[[Found], Sequence[Line]] = lambda found: ()
    remedies: tuple[Remedy, ...] = ()
    changed: str = ""

    @property
    def needed(self) -> dict[str, Experiment]:
        """All experiments of the claim and its remedies, by name."""
        return by_name([*self.experiments, *(e for remedy in self.remedies for e in remedy.experiments)])


def by_name(experiments: Sequence[Experiment]) -> dict[str, Experiment]:
    """Each once, by name, in that order."""
    return {experiment.name: experiment for experiment in experiments}


def shared(claims: Sequence[Claim]) -> Mapping[str, Experiment]:
    """The experiments of all claims; several may stand on one.

    Raises:
        ValueError: two different experiments have one name.
    """
    found: dict[str, Experiment] = {}
    for claim in claims:
        for name, experiment in claim.needed.items():
            if found.setdefault(name, experiment) != experiment:
                raise ValueError(f"two experiments are called {name!r}")
    return found
