"""SGD needs careful tuning of its learning rate."""

from collections.abc import Callable

from thalweg.lab.lesson import arms
from thalweg.lab.lesson.claim import Claim, Line, Remedy, Trio, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.experiments import SWEEPS
from thalweg.lab.lesson.found import (
    Found,
    Scores,
    best_swept,
    in_sweep_margins,
    mean_of,
    minus,
    scores,
    typical_swept,
    width,
)
from thalweg.lab.lesson.plans import untuned
from thalweg.lab.lesson.scale import DECADES

ON = ("digits", "fashion", "speech")

DOG = arms.arm("sgd-dog", "SGD", 1e-2, default=1.0, momentum=0.9, dampening=0.9, dog=True)
PRODIGY = arms.arm("prodigy", "Prodigy", 1e-2, default=1.0)
FREE = arms.arm("sgd-schedule-free", "SGD", 1e-3, default=1.0, schedule_free=0.9)

WITHOUT_A_RATE = {
    name: Experiment(f"untuned-{name}", SWEEPS[name].make, (DOG, PRODIGY, FREE), plan=untuned) for name in ON
}


def values(found: Found) -> Scores:
    """Decades by which AdamW's range of good rates is wider than SGD's with momentum."""
    return mean_of(
        [minus(width(found[f"sweep-{n}"], "adamw"), width(found[f"sweep-{n}"], "sgd-momentum")) for n in ON]
    )


def secondary(found: Found) -> list[Line]:
    """Each width and workload by itself."""
    return [
        told(f"{arm} on {name}", width(found[f"sweep-{name}"], arm), DECADES)
        for name in ON
        for arm in ("sgd-momentum", "adamw")
    ]


def remedied(arm: str) -> Callable[[Found], Trio | None]:
    """Scores in margins: SGD at a rate drawn from the sweep, the rule without one, SGD at its best rate."""

    def trio(found: Found) -> Trio | None:
        without, remedy, rival = [], [], []
        for name in ON:
            sweep, tried = found[f"sweep-{name}"], found[f"untuned-{name}"]
            without.append(in_sweep_margins(sweep, typical_swept(sweep, "sgd-momentum")))
            remedy.append(in_sweep_margins(sweep, scores(tried, arm)))
            rival.append(in_sweep_margins(sweep, best_swept(sweep, "sgd-momentum")))
        return Trio(mean_of(without), mean_of(remedy), mean_of(rival))

    return trio


NEEDED = tuple(WITHOUT_A_RATE.values())
DRAWN = "SGD with momentum at the best of 13 rates; without: at one of them, drawn at random"

CLAIM = Claim(
    name="S-1",
    subject="SGD",
    says="SGD needs its learning rate tuned with care.",
    endpoint="Decades of learning rate within the margin of the best of 13 rates over four decades, AdamW's"
    " minus those of SGD with momentum, mean of digits, Fashion-MNIST and speech.",
    scale=DECADES,
    experiments=tuple(SWEEPS[name] for name in ON),
    values=values,
    reads="of learning rate by which AdamW's range of good rates is wider than SGD's",
    conditions="Small networks; warm-up and linear decay for both, speech clips gradients for both.",
    secondary=secondary,
    remedies=(
        Remedy("DoG", "SGD(dog=True), lr 1, nothing tuned", DRAWN, NEEDED, remedied(DOG.name)),
        Remedy("Prodigy", "Prodigy(), lr 1, nothing tuned", DRAWN, NEEDED, remedied(PRODIGY.name)),
        Remedy(
            "schedule-free", "SGD(schedule_free=0.9), lr 1, nothing tuned", DRAWN, NEEDED, remedied(FREE.name)
        ),
    ),
)
