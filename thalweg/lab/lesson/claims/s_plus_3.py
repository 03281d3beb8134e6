"""SGD works well with momentum."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import STEPS_TO_LOSS, Experiment
from thalweg.lab.lesson.experiments import DEEP_64, DEEP_512
from thalweg.lab.lesson.found import Found, Scores, faster
from thalweg.lab.lesson.scale import FACTOR

DEEP_8 = Experiment("deep-8", workloads.deep_8, (arms.SGD, arms.SGD_MOMENTUM), reading=STEPS_TO_LOSS)


def values(found: Found) -> Scores:
    """The logarithm of SGD's steps over those with momentum."""
    return faster(found[DEEP_512.name], "sgd", "sgd-momentum")


def secondary(found: Found) -> list[Line]:
    """The same in smaller batches."""
    return [
        told(f"the same in batches of {batch}", faster(found[e.name], "sgd", "sgd-momentum"), FACTOR)
        for batch, e in ((8, DEEP_8), (64, DEEP_64))
        if e.name in found.studies
    ]


CLAIM = Claim(
    name="S+3",
    subject="SGD",
    says="With momentum, SGD works extremely well.",
    endpoint="Steps to a training loss of 0.1 of an 8-layer tanh network on digits in batches of 512, SGD's"
    " over those of SGD with momentum 0.9, each at its best constant rate of 12.",
    scale=FACTOR,
    experiments=(DEEP_512, DEEP_64, DEEP_8),
    values=values,
    reads="of SGD with momentum are what SGD without takes",
    conditions="One network, one momentum; what large batches cost in wall-clock time is not counted.",
    secondary=secondary,
)
