"""Adam may find sharp minima and generalise worse on images."""

from typing import Literal

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, told, trio_of
from thalweg.lab.lesson.experiment import ACCURACY_AT_LOSS, Experiment
from thalweg.lab.lesson.found import Found, Scores, ahead, log_ratio, scores, sharpness
from thalweg.lab.lesson.scale import POINTS, TIMES

PLAIN = Experiment(
    "fashion-to-loss",
    workloads.fashion_to_loss_64,
    (arms.SGD_MOMENTUM, arms.ADAM),
    reading=ACCURACY_AT_LOSS,
    why=True,
)

DECAYED = arms.arm("adamw-decay", "AdamW", 1e-5, weight_decay=0.1)
AVERAGED = arms.arm("adam-average", "Adam", 1e-5, average=0.99)

REMEDIED = Experiment(
    "fashion-to-loss-remedies",
    workloads.fashion_to_loss_64,
    (DECAYED, AVERAGED, arms.SAM_ADAM),
    reading=ACCURACY_AT_LOSS,
)


def values(found: Found) -> Scores:
    """Points by which SGD with momentum is ahead of Adam at the same training loss."""
    return ahead(found[PLAIN.name], "sgd-momentum", "adam")


def secondary(found: Found) -> list[Line]:
    """Whether its minima are sharper."""
    study = found[PLAIN.name]

    def over(part: Literal["sharpness", "adaptive"]) -> Scores:
        return log_ratio(sharpness(study, "adam", part), sharpness(study, "sgd-momentum", part))

    return [
        told("lambda_max at Adam's ends over that at SGD's", over("sharpness"), TIMES),
        told("adaptive sharpness, likewise", over("adaptive"), TIMES),
    ]


CLAIM = Claim(
    name="A-1",
    subject="Adam",
    says="Adam may find sharp minima, and generalises worse on images.",
    endpoint="Test accuracy of a small network trained on 2,000 images of Fashion-MNIST, at the evaluation "
    "at which its training loss first is 0.01: SGD with momentum minus Adam, each at the best "
    "constant rate of 12.",
    scale=POINTS,
    experiments=(PLAIN,),
    values=values,
    reads="of accuracy by which SGD with momentum is ahead of Adam at equal training loss",
    conditions="A small network, few images, no augmentation, no weight decay; not tested at scale.",
    secondary=secondary,
    changed="The cap of steps, after runs at single learning rates, made to see how long a run takes, had "
    "not come to the loss of 0.01 within it: from 1,500 to 3,000. No arms had been compared on it.",
    remedies=tuple(
        Remedy(
            name,
            what,
            "SGD with momentum",
            (REMEDIED,),
            trio_of(scores, PLAIN, REMEDIED, ("adam", arm, "sgd-momentum")),
        )
        for name, what, arm in (
            ("decoupled decay", "AdamW(weight_decay=0.1), no cost", DECAYED.name),
            ("average of the weights", "Adam(average=0.99), one more slot", AVERAGED.name),
            ("SAM", "SAM(Adam, rho=0.05), two gradients a step", arms.SAM_ADAM.name),
        )
    ),
)
