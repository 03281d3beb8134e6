"""Adam is excellent with sparse gradients."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, lower_loss, mean_of, minus
from thalweg.lab.lesson.scale import LOSS

PAIR = (arms.SGD_MOMENTUM, arms.ADAM)

ZIPF = {
    16: Experiment("zipf-16", workloads.zipf_16, PAIR),
    512: Experiment("zipf-512", workloads.zipf_512, PAIR),
}
UNIFORM = {
    16: Experiment("uniform-16", workloads.uniform_16, PAIR),
    512: Experiment("uniform-512", workloads.uniform_512, PAIR),
}


def interaction(found: Found, batch: int) -> Scores:
    """How much larger Adam's lead is with Zipf's ids than with uniform ones, in logarithms of the loss."""
    leads = [lower_loss(found[e[batch].name], "sgd-momentum", "adam") for e in (ZIPF, UNIFORM)]
    return minus(*leads)


def values(found: Found) -> Scores:
    """The mean over the batch sizes."""
    return mean_of([interaction(found, batch) for batch in ZIPF])


def secondary(found: Found) -> list[Line]:
    """Each batch size by itself."""
    return [told(f"in batches of {batch}", interaction(found, batch), LOSS) for batch in ZIPF]


CLAIM = Claim(
    name="A+3",
    subject="Adam",
    says="Adam is excellent with sparse gradients.",
    endpoint="Final loss of a linear classifier of ids, that of SGD with momentum over Adam's, with "
    "frequencies by Zipf's law over the same with all ids as frequent; mean of batches of 16 and "
    "512, each at its best rate of 12.",
    scale=LOSS,
    experiments=(*ZIPF.values(), *UNIFORM.values()),
    values=values,
    reads="is what Adam's lead over SGD with momentum grows by where ids are rare",
    conditions="As many examples are seen in either batch size. Gradients are as sparse with uniform ids: "
    "what differs is that some are rare.",
    secondary=secondary,
)
