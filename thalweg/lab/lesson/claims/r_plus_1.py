"""RMSprop keeps steps controlled, early ones too."""

import math

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, Trio, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, mean_of, outcomes, test_metric
from thalweg.lab.lesson.plans import untuned
from thalweg.lab.lesson.scale import Scale

CONTROLLED = Scale(-math.log(2), "times its steady size", logarithmic=True, turned=True)
"""Values are negative logarithms: a largest step below twice the steady one is in favour of the claim."""

CORRECTED = arms.arm("rmsprop-corrected", "RMSprop", 1e-5, default=1e-3, debias=True)

PROBES = tuple(
    Experiment(f"early-steps-{name}", make, (arms.RMSPROP, arms.ADAM, CORRECTED), plan=untuned)
    for name, make in (("speech", workloads.early_speech), ("deep", workloads.early_deep))
)


def early(found: Found, arm: str) -> Scores:
    """Negative logarithms of the largest early step over the steady size, mean of the workloads."""
    ratios = [outcomes(found[e.name], arm, test_metric) for e in PROBES]
    return mean_of([{seed: -math.log(ratio) for seed, ratio in one.items()} for one in ratios])


def values(found: Found) -> Scores:
    """RMSprop's."""
    return early(found, "rmsprop")


def secondary(found: Found) -> list[Line]:
    """The others'."""
    return [told(name, early(found, name), CONTROLLED) for name in ("adam", CORRECTED.name)]


def trio(found: Found) -> Trio | None:
    """RMSprop, with bias correction, and Adam."""
    return Trio(values(found), early(found, CORRECTED.name), early(found, "adam"))


CLAIM = Claim(
    name="R+1",
    subject="RMSprop",
    says="RMSprop keeps the size of its steps under control, from the first one on.",
    endpoint="RMSprop's largest |dw| / lr in the first 100 steps over the median of the 200 after, "
    "geometric mean of speech and an 8-layer tanh network, at its default rate. Controlled is at "
    "most twice.",
    scale=CONTROLLED,
    experiments=PROBES,
    values=values,
    reads="is RMSprop's largest step among the first 100",
    conditions="At a constant rate of 0.001, without warm-up.",
    secondary=secondary,
    remedies=(Remedy("bias correction", "RMSprop(debias=True), no cost", "Adam", (), trio),),
)
