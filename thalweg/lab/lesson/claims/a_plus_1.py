"""Adam's rates for each parameter remove much tuning."""

from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiments import SWEEPS
from thalweg.lab.lesson.found import Found, Scores, expected_best, in_sweep_margins, mean_of, minus
from thalweg.lab.lesson.scale import MARGINS

ON = ("fashion", "text", "speech")


def best_of(found: Found, name: str, count: int) -> Scores:
    """By how many margins Adam is ahead when `count` rates are drawn for each."""
    study = found[f"sweep-{name}"]
    first, second = expected_best(study, "adam", count), expected_best(study, "sgd-momentum", count)
    return in_sweep_margins(study, minus(first, second))


def values(found: Found) -> Scores:
    """The mean over the workloads, of two rates."""
    return mean_of([best_of(found, name, 2) for name in ON])


def secondary(found: Found) -> list[Line]:
    """Each workload by itself, and with more rates."""
    return [
        *(told(f"best of 2 on {name}", best_of(found, name, 2), MARGINS) for name in ON),
        *(
            told(f"best of {n}, all", mean_of([best_of(found, name, n) for name in ON]), MARGINS)
            for n in (1, 4, 8)
        ),
    ]


CLAIM = Claim(
    name="A+1",
    subject="Adam",
    says="Rates for each parameter take much of the tuning away.",
    endpoint="The expected test metric of the better of two learning rates, drawn from 13 over four decades"
    " and chosen on validation, Adam's minus that of SGD with momentum, in margins, mean of "
    "Fashion-MNIST, text and speech.",
    scale=MARGINS,
    experiments=tuple(SWEEPS[name] for name in ON),
    values=values,
    reads="of the workload by which Adam is ahead when each may try two rates",
    conditions="How far it is ahead depends on the four decades that rates are drawn from.",
    secondary=secondary,
)
