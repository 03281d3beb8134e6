"""RMSprop lacks momentum."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Remedy, trio_of
from thalweg.lab.lesson.experiment import STEPS_TO_LOSS, Experiment
from thalweg.lab.lesson.experiments import DEEP_512
from thalweg.lab.lesson.found import Found, Scores, faster, log_steps
from thalweg.lab.lesson.scale import FACTOR

AVERAGED = arms.arm("rmsprop-averaged-momentum", "RMSprop", 1e-5, momentum=0.9, momentum_ema=True)

REMEDY = Experiment("deep-512-rmsprop-averaged", workloads.deep_512, (AVERAGED,), reading=STEPS_TO_LOSS)


def values(found: Found) -> Scores:
    """The logarithm of RMSprop's steps over those with momentum."""
    return faster(found[DEEP_512.name], "rmsprop", "rmsprop-momentum")


CLAIM = Claim(
    name="R-2",
    subject="RMSprop",
    says="RMSprop lacks momentum, and is the slower for it.",
    endpoint="Steps to a training loss of 0.1 of an 8-layer tanh network on digits in batches of 512, "
    "RMSprop's over those of RMSprop with momentum 0.9, each at its best constant rate of 12.",
    scale=FACTOR,
    experiments=(DEEP_512,),
    values=values,
    reads="of RMSprop with momentum are what RMSprop without takes",
    conditions="One network; that torch's RMSprop has a momentum argument is not held against the sentence.",
    remedies=(
        Remedy(
            "momentum as an average",
            "RMSprop(momentum=0.9, momentum_ema=True): a step is as long as without momentum, so its rate "
            "stays",
            "RMSprop with torch's momentum, tuned",
            (REMEDY,),
            trio_of(log_steps, DEEP_512, REMEDY, ("rmsprop", AVERAGED.name, "rmsprop-momentum")),
        ),
    ),
)
