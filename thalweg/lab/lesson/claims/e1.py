"""SGD with momentum beats adaptive methods on images."""

from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiments import FASHION_NORM
from thalweg.lab.lesson.found import Found, Scores, ahead, ahead_of_best
from thalweg.lab.lesson.scale import POINTS

ADAPTIVE = ("adam", "adamw")


def values(found: Found) -> Scores:
    """Points of accuracy by which SGD with momentum is ahead of the better of Adam and AdamW."""
    return ahead_of_best(found[FASHION_NORM.name], "sgd-momentum", ADAPTIVE)


def secondary(found: Found) -> list[Line]:
    """SGD with momentum against each."""
    study = found[FASHION_NORM.name]
    return [
        told(f"ahead of {arm}", ahead(study, "sgd-momentum", arm), POINTS) for arm in (*ADAPTIVE, "rmsprop")
    ]


CLAIM = Claim(
    name="E1",
    subject="Examples",
    says="On CIFAR-10, SGD with momentum beats the adaptive methods.",
    endpoint="Test accuracy of a small network with batch norm on Fashion-MNIST: SGD with momentum minus "
    "the one of Adam and AdamW that is better on validation, each at its best rate of 12.",
    scale=POINTS,
    experiments=(FASHION_NORM,),
    values=values,
    reads="of accuracy ahead of the better of Adam and AdamW",
    conditions="Fashion-MNIST stands for CIFAR-10, 600 steps of 64 images; not tested at scale.",
    secondary=secondary,
)
