"""RMSprop underperforms in vision."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Remedy, Trio
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.experiments import FASHION_NORM
from thalweg.lab.lesson.found import Found, Scores, ahead_of_best, best_of, scores
from thalweg.lab.lesson.scale import POINTS

OTHERS = ("sgd-momentum", "adam")

VISION = arms.arm(
    "rmsprop-vision",
    "RMSprop",
    1e-6,
    alpha=0.9,
    eps=1e-3,
    eps_inside_sqrt=True,
    momentum=0.9,
    weight_decay=1e-5,
    decoupled_weight_decay=True,
    average=0.99,
)

RECIPE = Experiment("fashion-norm-rmsprop-vision", workloads.fashion_norm, (VISION,))


def values(found: Found) -> Scores:
    """Points of accuracy by which the better of the others is ahead of RMSprop."""
    behind = ahead_of_best(found[FASHION_NORM.name], "rmsprop", OTHERS)
    return {seed: -value for seed, value in behind.items()}


def trio(found: Found) -> Trio | None:
    """Accuracy of RMSprop, of the recipe, and of the better of the others."""
    study = found[FASHION_NORM.name]
    best = best_of(study, OTHERS)
    if best is None:
        return None
    remedied = scores(found[RECIPE.name], VISION.name)
    return Trio(scores(study, "rmsprop"), remedied, scores(study, best))


CLAIM = Claim(
    name="R-3",
    subject="RMSprop",
    says="In vision, RMSprop lags behind.",
    endpoint="Test accuracy of a small network with batch norm on Fashion-MNIST: the one of SGD with "
    "momentum and Adam that is better on validation, minus RMSprop, each at its best rate of 12.",
    scale=POINTS,
    experiments=(FASHION_NORM,),
    values=values,
    reads="of accuracy behind the better of SGD with momentum and Adam",
    conditions="600 steps of 64 images; not tested at scale.",
    remedies=(
        Remedy(
            "the vision recipe",
            "RMSprop with eps inside the root, momentum, decoupled weight decay and an average of the "
            "weights",
            "the better of SGD with momentum and Adam",
            (RECIPE,),
            trio,
        ),
    ),
)
