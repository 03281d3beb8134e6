"""Noise helps SGD to generalise, by flatter minima."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import ACCURACY_AT_LOSS, Experiment
from thalweg.lab.lesson.found import (
    Found,
    Scores,
    finals,
    log_ratio,
    minus,
    outcomes,
    scores,
    sharpness,
    test_metric,
)
from thalweg.lab.lesson.scale import POINTS, TIMES

SMALL = Experiment(
    "fashion-to-loss-16",
    workloads.fashion_to_loss_16,
    (arms.SGD_MOMENTUM,),
    reading=ACCURACY_AT_LOSS,
    why=True,
)
FULL = Experiment(
    "fashion-to-loss-full",
    workloads.fashion_to_loss_full,
    (arms.SGD_MOMENTUM,),
    reading=ACCURACY_AT_LOSS,
    why=True,
)


def values(found: Found) -> Scores:
    """Points by which batches of 16 are ahead of the full batch at the same training loss."""
    return minus(scores(found[SMALL.name], "sgd-momentum"), scores(found[FULL.name], "sgd-momentum"))


def secondary(found: Found) -> list[Line]:
    """Whether small batches end where it is flatter; how many runs came to the loss; how all of them end."""
    ends = [sharpness(found[e.name], "sgd-momentum") for e in (FULL, SMALL)]
    runs = [finals(found[e.name], "sgd-momentum") for e in (SMALL, FULL)]
    there = [f"{sum(r.met is not None for r in one.values())} of {len(one)}" for one in runs]
    last = [outcomes(found[e.name], "sgd-momentum", test_metric) for e in (SMALL, FULL)]
    return [
        told("lambda_max at the full batch's ends over that of batches of 16", log_ratio(*ends), TIMES),
        Line(
            "Runs that came to the loss; one that did not counts as 100 points behind",
            f"{there[0]} in batches of 16, {there[1]} of the full batch",
        ),
        told(
            "Where each run ends, there or not: batches of 16 minus the full batch (added after records were "
            "seen)",
            minus(*last),
            POINTS,
        ),
    ]


CLAIM = Claim(
    name="S+2",
    subject="SGD",
    says="The noise of small batches helps SGD to generalise, because it leads to flatter minima.",
    endpoint="Test accuracy of a small network trained on 2,000 images of Fashion-MNIST, at the evaluation "
    "at which its training loss first is 0.01: batches of 16 minus all images in every batch, SGD "
    "with momentum, each at the best constant rate of 12.",
    scale=POINTS,
    experiments=(SMALL, FULL),
    values=values,
    reads="of accuracy by which batches of 16 are ahead of the full batch at equal training loss",
    conditions="It says whether noise helps here, not whether flatness is the reason.",
    secondary=secondary,
    changed="The cap of steps, after runs at single learning rates, made to see how long a run takes, had "
    "not come to the loss of 0.01 within it: of the full batch from 500 to 1,000. No arms had been "
    "compared.",
)
