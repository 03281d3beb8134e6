"""Adam is stable under noise."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.experiments import FASHION
from thalweg.lab.lesson.found import Found, Scores, minus, scores
from thalweg.lab.lesson.scale import POINTS

ARMS = (arms.SGD_MOMENTUM, arms.SGD_MOMENTUM_CLIPPED, arms.ADAM)

NOISY = Experiment("fashion-outliers", workloads.fashion_noisy, ARMS)
LABELS = Experiment("fashion-labels", workloads.fashion_labels, ARMS)


def lost(found: Found, noisy: Experiment, arm: str) -> Scores:
    """Points of accuracy that noise costs an arm, tuned with it and without."""
    return minus(scores(found[FASHION.name], arm), scores(found[noisy.name], arm))


def values(found: Found) -> Scores:
    """Points that noise costs SGD with momentum and clipping, beyond what it costs Adam."""
    return minus(lost(found, NOISY, "sgd-momentum-clip"), lost(found, NOISY, "adam"))


def secondary(found: Found) -> list[Line]:
    """What noise costs each, of either kind."""
    return [
        told(f"lost to {what}, {arm.name}", lost(found, noisy, arm.name), POINTS)
        for what, noisy in (("scaled batches", NOISY), ("wrong labels", LABELS))
        for arm in ARMS
        if noisy.name in found.studies
    ]


CLAIM = Claim(
    name="A+2",
    subject="Adam",
    says="Adam is stable where gradients are noisy.",
    endpoint="Test accuracy on Fashion-MNIST lost to a loss that is 100 times too large in 5 % of the "
    "batches: what SGD with momentum and clipping loses minus what Adam loses, each at its best "
    "rate of 12 with the noise and without.",
    scale=POINTS,
    experiments=(FASHION, NOISY, LABELS),
    values=values,
    reads="of accuracy that noise costs SGD with momentum and clipping beyond what it costs Adam",
    conditions="One kind of noise with a heavy tail; wrong labels and SGD without clipping are secondary.",
    secondary=secondary,
)
