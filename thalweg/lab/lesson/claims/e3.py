"""RMSprop for recurrent speech models."""

from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiments import SPEECH
from thalweg.lab.lesson.found import Found, Scores, ahead, ahead_of_best
from thalweg.lab.lesson.scale import POINTS


def values(found: Found) -> Scores:
    """Points of accuracy by which RMSprop is ahead of the better of the others."""
    return ahead_of_best(found[SPEECH.name], "rmsprop", ("sgd-momentum", "adam"))


def secondary(found: Found) -> list[Line]:
    """RMSprop against each."""
    study = found[SPEECH.name]
    return [told(f"ahead of {arm}", ahead(study, "rmsprop", arm), POINTS) for arm in ("sgd-momentum", "adam")]


CLAIM = Claim(
    name="E3",
    subject="Examples",
    says="For recurrent speech models, RMSprop is the one to take.",
    endpoint="Test accuracy of a GRU on spoken digits: RMSprop minus the one of SGD with momentum and Adam "
    "that is better on validation, each at its best rate of 12.",
    scale=POINTS,
    experiments=(SPEECH,),
    values=values,
    reads="of accuracy ahead of the better of the others",
    conditions="900 recordings train, gradients are clipped to norm 1 for all. Not tested at scale.",
    secondary=secondary,
)
