"""RMSprop is reliable on non-stationary data."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, ahead
from thalweg.lab.lesson.scale import POINTS

SAME = arms.arm("adam-0.99", "Adam", 1e-5, betas=(0.9, 0.99))

STREAM = Experiment("stream", workloads.stream, (arms.RMSPROP, SAME, arms.ADAM, arms.ADAGRAD))


def values(found: Found) -> Scores:
    """Points of prequential accuracy by which RMSprop is ahead of Adam with the same memory of squares."""
    return ahead(found[STREAM.name], "rmsprop", SAME.name)


def secondary(found: Found) -> list[Line]:
    """Against Adam's defaults, and the control that never forgets."""
    study = found[STREAM.name]
    return [
        told("ahead of Adam at its defaults", ahead(study, "rmsprop", "adam"), POINTS),
        told("ahead of Adagrad, which never forgets", ahead(study, "rmsprop", "adagrad"), POINTS),
    ]


CLAIM = Claim(
    name="R+3",
    subject="RMSprop",
    says="RMSprop is reliable on data that change.",
    endpoint="Prequential accuracy on a stream of digits whose labels are dealt anew every 200 steps: "
    "RMSprop minus Adam with beta2 = alpha = 0.99, each at its best constant rate of 12.",
    scale=POINTS,
    experiments=(STREAM,),
    values=values,
    reads="of prequential accuracy ahead of Adam with the same memory of squares",
    conditions="One kind of change. Adam has momentum and corrects its bias, RMSprop does neither.",
    secondary=secondary,
)
