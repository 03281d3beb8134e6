"""RMSprop suits sequences and reinforcement learning."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, ahead, in_margins, mean_of
from thalweg.lab.lesson.scale import MARGINS

ARMS = (arms.RMSPROP, arms.SGD_MOMENTUM_CLIPPED, arms.ADAM)

SEQUENCES = tuple(
    Experiment(f"sequences-{name}", make, ARMS)
    for name, make in (
        ("speech", workloads.speech_short),
        ("series", workloads.series),
        ("rl", workloads.rl),
    )
)


def lead(found: Found, experiment: Experiment, other: str) -> Scores:
    """By how many margins of the workload RMSprop is ahead."""
    study = found[experiment.name]
    return in_margins(study, ahead(study, "rmsprop", other))


def values(found: Found) -> Scores:
    """The mean of the workloads, ahead of SGD with momentum and clipping."""
    return mean_of([lead(found, e, "sgd-momentum-clip") for e in SEQUENCES])


def secondary(found: Found) -> list[Line]:
    """Each workload by itself, and ahead of Adam."""
    return [
        *(
            told(f"on {e.name.partition('-')[2]}", lead(found, e, "sgd-momentum-clip"), MARGINS)
            for e in SEQUENCES
        ),
        told("ahead of Adam, all", mean_of([lead(found, e, "adam") for e in SEQUENCES]), MARGINS),
    ]


CLAIM = Claim(
    name="R+2",
    subject="RMSprop",
    says="RMSprop suits sequences and reinforcement learning.",
    endpoint="RMSprop minus SGD with momentum and clipping, in margins, mean of spoken digits, a forecast "
    "of the demand for electricity and a policy gradient on CartPole, each at its best rate of 12.",
    scale=MARGINS,
    experiments=SEQUENCES,
    values=values,
    reads="of the workload by which RMSprop is ahead of SGD with momentum and clipping",
    conditions="Recurrent networks clip gradients for all, as is the custom. Not tested at scale.",
    secondary=secondary,
)
