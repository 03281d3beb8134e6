"""What goes into one training run (`Trial`) and what comes out of it (`Record`), and both as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from thalweg.lab.spaces import located
from thalweg.lab.study import why as whys
from thalweg.lab.study.why import Why
from thalweg.lab.workload import Evaluation
from thalweg.lab.workload.errors import Doubt

Stage = Literal["tune", "extend", "confirm", "final", "repeat"]
"""Why a run is made: to search, to search beyond a range, to choose between the best two, to measure on test,
to measure on validation alone."""

FailureKind = Literal["diverged", "ended early", "out of memory", "time limit", "killed"]

ASTRAY: frozenset[FailureKind] = frozenset({"diverged", "ended early"})
"""Failures of training itself, which a lower rate may mend."""

ACCIDENTS: frozenset[FailureKind] = frozenset({"out of memory", "killed"})
"""Failures that say nothing of the optimizer: the machine, or what else ran on it, may be to blame."""


@dataclass(frozen=True)
class Trial:
    """Everything that fixes a run of a workload, so that it can be repeated bit for bit.

    Attributes:
        stage: why it is run.
        name: of the optimizer's search space, for example ``adamw``.
        optimizer: where the class lies, for example ``thalweg.AdamW``.
        settings: all constructor arguments.
        point: the searched hyperparameters by the names of their axes.
        seed: gives the initial weights and the order of the data.
    """

    stage: Stage
    name: str
    optimizer: str
    settings: Mapping[str, Any]
    point: Mapping[str, Any]
    seed: int

    @cached_property
    def key(self) -> str:
        """Tells this trial from all others of a study; equal trials have equal keys."""
        parts = [self.stage, self.name, self.optimizer, self.settings, self.seed]
        return json.dumps(parts, sort_keys=True, default=_named)

    @property
    def lr(self) -> float:
        """The learning rate or, of an optimizer that takes none, what is searched in its place."""
        return float(self.settings["lr"] if "lr" in self.settings else next(iter(self.point.values())))


class Point(NamedTuple):
    """One point of a learning curve.

    `loss` is the mean training loss since the point before (None at step 0, before training);
    `metric` is measured on the validation split.
    """

    step: int
    loss: float | None
    metric: float


class Failure(NamedTuple):
    """Why a run did not come to its end; `step` is where, if that is known."""

    kind: FailureKind
    text: str
    step: int | None = None


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of one run.

    Attributes:
        seconds: all forward and backward passes and optimizer steps; no evaluation.
        total: the whole run, evaluations and the making of model and batches among it.
        step_ms: median milliseconds of one optimizer step.
        at: `seconds` gone at each point of the learning curve.
        machine: where it ran.
    """

    seconds: float
    total: float
    step_ms: float
    at: tuple[float, ...]
    machine: str


@dataclass(frozen=True)
class Record:
    """What one run gave. Two records are equal when all but their timing is.

    Attributes:
        trial: what was run.
        curve: the learning curve, from before the first step to the last finite point.
        validation: evaluation after the last step; None if the run failed.
        test: the same on the test split, of final runs only.
        failure: why it did not come to its end; None if it did.
        state_bytes: bytes of optimizer state beside the parameters, after the last step.
        timing: how long it took; None if it never came back.
        met: the step at which the training loss first met the task's `until_loss` and the run ended; None if
            it never did, or none was asked for.
        further: what the task's own `further` gave after the last step, by the part of the data.
        doubts: what was seen of the task while it ran, where that is no good.
        why: what was measured beside it, of final runs.
        hopeless: the step at which it would have been ended early, of a trial that was finished all the same.
    """

    trial: Trial
    curve: tuple[Point, ...]
    validation: Evaluation | None
    test: Evaluation | None
    failure: Failure | None
    state_bytes: int
    timing: Timing | None = field(compare=False)
    met: int | None = None
    further: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = field(default=(), compare=False)
    why: Why | None = field(default=None, compare=False)
    hopeless: int | None = None

    @property
    def lost(self) -> bool:
        """Whether an accident took the run: it counts neither for nor against its optimizer."""
        return self.failure is not None and self.failure.kind in ACCIDENTS

    @property
    def astray(self) -> bool:
        """Whether training made things worse, to the end or until it was ended."""
        return self.hopeless is not None or (self.failure is not None and self.failure.kind in ASTRAY)


def failed(trial: Trial, failure: Failure) -> Record:
    """The record of a run that never came back."""
    return Record(trial, (), None, None, failure, 0, None)


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON's types; `from_json` gives it back, bit for bit."""
    return {
        **trial_to_json(record.trial),
        "curve": [list(point) for point in record.curve],
        "validation": record.validation and record.validation._asdict(),
        "test": record.test and record.test._asdict(),
        "failure": record.failure and record.failure._asdict(),
        "state_bytes": record.state_bytes,
        "timing": record.timing and asdict(record.timing),
        **({} if record.met is None else {"met": record.met}),
        **(
            {"further": {split: dict(found) for split, found in record.further.items()}}
            if record.further
            else {}
        ),
        **({"doubts": [doubt._asdict() for doubt in record.doubts]} if record.doubts else {}),
        **({"why": whys.to_json(record.why)} if record.why is not None else {}),
        **({} if record.hopeless is None else {"hopeless": record.hopeless}),
    }


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """A trial as JSON's types; a class or function among its settings is the place where it lies."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(trial), default=_named))
    return document


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments as JSON's types.

    Raises:
        TypeError: one is neither of these nor a class or function that can be found again.
    """
    document: dict[str, Any] = json.loads(json.dumps(dict(settings), default=_named))
    return document


def _named(value: Any) -> Any:
    """What JSON is to keep of a value that it does not know."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, Mapping):
        return dict(value)
    if not module or not name or "<" in name or module == "__main__":
        raise TypeError(f"{value!r} cannot be kept with the records")
    return {_LOCATED: f"{module}.{name}"}


def _found(value: Any) -> Any:
    """The value again that JSON has kept."""
    if isinstance(value, list):
        return tuple(map(_found, value))
    if isinstance(value, dict) and set(value) == {_LOCATED}:
        return located(value[_LOCATED])
    return value


_LOCATED = "located"


def trial_from_json(document: Mapping[str, Any]) -> Trial:
    """The trial inside what `to_json` gave."""
    settings = {key: _found(value) for key, value in document["settings"].items()}
    return Trial(
        document["stage"],
        document["name"],
        document["optimizer"],
        settings,
        document["point"],
        document["seed"],
    )


def from_json(document: Mapping[str, Any]) -> Record:
    """The record that `to_json` was given."""
    timing = document["timing"]
    return Record(
        trial=trial_from_json(document),
        curve=tuple(Point(*point) for point in document["curve"]),
        validation=document["validation"] and Evaluation(**document["validation"]),
        test=document["test"] and Evaluation(**document["test"]),
        failure=document["failure"] and Failure(**document["failure"]),
        state_bytes=document["state_bytes"],
        timing=timing and Timing(**{**timing, "at": tuple(timing["at"])}),
        met=document.get("met"),
        further=document.get("further", {}),
        doubts=tuple(Doubt(**doubt) for doubt in document.get("doubts", ())),
        why=whys.from_json(document["why"]) if document.get("why") else None,
        hopeless=document.get("hopeless"),
    )
