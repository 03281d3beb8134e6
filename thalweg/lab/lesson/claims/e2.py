"""Adam for transformers, thanks to attention."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, lower_loss, negative_loss
from thalweg.lab.lesson.judging import closed
from thalweg.lab.lesson.scale import LOSS

ROUTED = arms.changed(
    arms.arm("adam-but-for-attention", "Mixed", 1e-5),
    "adam-but-for-attention",
    param_groups=workloads.text_groups,
)

TEXT = Experiment("text", workloads.text, (arms.SGD_MOMENTUM, arms.ADAM, ROUTED))


def values(found: Found) -> Scores:
    """The logarithm of the loss of SGD with momentum over Adam's."""
    return lower_loss(found[TEXT.name], "sgd-momentum", "adam")


def secondary(found: Found) -> list[Line]:
    """How much of the gap is closed without Adam on the matrices of attention and the layers between."""
    study = found[TEXT.name]
    arms_ = [negative_loss(study, arm) for arm in ("sgd-momentum", ROUTED.name, "adam")]
    share = closed(*([scores[seed] for seed in arms_[0]] for scores in arms_))
    return [
        Line(
            "Adam on embeddings, norms and head only, SGD with momentum on the blocks' matrices", share.text()
        )
    ]


CLAIM = Claim(
    name="E2",
    subject="Examples",
    says="Transformers want Adam, because their attention makes gradients sparse.",
    endpoint="Test loss of a small transformer language model: that of SGD with momentum over Adam's, each "
    "at its best rate of 12.",
    scale=LOSS,
    experiments=(TEXT,),
    values=values,
    reads="of Adam is that of SGD with momentum",
    conditions="250 steps of 8 windows of 32 words, gradients clipped to norm 1 for all; not tested at "
    "scale. If attention were the reason, Adam elsewhere would close little of the gap.",
    secondary=secondary,
)
