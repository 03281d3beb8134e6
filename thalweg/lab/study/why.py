"""What a final run tells of why its optimizer ends where it ends, and that as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

Part = Literal["updates", "noise", "curvature", "bound"]
"""What is measured together, and missing together."""


class Found(NamedTuple):
    """A number, and how far it may be off: a residual or a standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Why:
    """What was measured beside a run; see `docs/why.md` for definitions.

    Attributes:
        updates: by parameter, the RMS of a step over that of the weights, the median of some steps.
        rate: the highest learning rate of the run's steps; None of an optimizer without.
        signal: |G|^2 of the training loss's gradient, without bias.
        noise: the trace of the covariance of one example's gradient, without bias.
        sharpness: the largest eigenvalue of the Hessian.
        steered: that of the Hessian as the optimizer scales it, to be compared with `bound`.
        bound: above which steps at `rate` are not stable.
        trace: the sum of the Hessian's eigenvalues.
        adaptive: the largest eigenvalue of |W| H |W|.
        examples: on which the Hessian was taken.
        products: with the Hessian.
        seconds: what all of it took; no part of the run's own.
        missing: why a part was not measured, in a line.
    """

    updates: Mapping[str, float] = field(default_factory=dict)
    rate: float | None = None
    signal: float | None = None
    noise: float | None = None
    sharpness: Found | None = None
    steered: Found | None = None
    bound: float | None = None
    trace: Found | None = None
    adaptive: Found | None = None
    examples: int = 0
    products: int = 0
    seconds: float = 0.0
    missing: Mapping[Part, str] = field(default_factory=dict)


FOUND = ("sharpness", "steered", "trace", "adaptive")


def to_json(why: Why) -> dict[str, Any]:
    """As JSON's types; `from_json` gives it back."""
    return {**asdict(why), **{name: _plain(getattr(why, name)) for name in FOUND}}


def from_json(document: Mapping[str, Any]) -> Why:
    """What `to_json` was given; fields that it does not know are passed over."""
    known = {one.name for one in fields(Why)}
    values = {name: value for name, value in document.items() if name in known}
    return Why(**{**values, **{name: _found(values.get(name)) for name in FOUND}})


def _plain(found: Found | None) -> dict[str, float] | None:
    return None if found is None else found._asdict()


def _found(document: Mapping[str, float] | None) -> Found | None:
    return None if document is None else Found(**document)
