"""SGD struggles with sparse gradients."""

import math
from typing import Any

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, trio_of
from thalweg.lab.lesson.counting import rows_moved
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, further, log_ratio, outcomes
from thalweg.lab.lesson.scale import LOSS
from thalweg.lab.study.study import Study

ZIPF = Experiment("zipf-rarest", workloads.zipf, (arms.SGD_MOMENTUM, arms.ADAM))

LAZY = arms.changed(arms.SGD_MOMENTUM, "sgd-momentum-lazy", sparse=True)
EXACT = arms.changed(
    arms.arm("exact", "SGD", 1e-4, momentum=0.9, sparse="exact"), "sgd-momentum-exact", sparse=True
)
ADAGRAD = arms.changed(arms.ADAGRAD, "adagrad-lazy", sparse=True)
REMEDIED = Experiment("zipf-rarest-remedies", workloads.zipf, (LAZY, EXACT, ADAGRAD))

MOVERS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("SGD", {}, False),
    ("SGD with momentum", {"momentum": 0.9}, False),
    ("SGD with weight decay", {"weight_decay": 0.01}, False),
    ("RMSprop", {}, False),
    ("Adam", {}, False),
    ("SGD with momentum, row-sparse", {"momentum": 0.9}, True),
    ("Adam, row-sparse", {}, True),
)


def rarest(study: Study, arm: str) -> Scores:
    """The loss of an arm on the rarest tenth of the ids."""
    return outcomes(study, arm, further("rarest"))


def learned(study: Study, arm: str) -> Scores:
    """Logarithms of the same, turned so that less is more."""
    return {seed: -math.log(loss) for seed, loss in rarest(study, arm).items()}


def values(found: Found) -> Scores:
    """The logarithm of the loss of SGD with momentum over Adam's, on the rarest tenth."""
    study = found[ZIPF.name]
    return log_ratio(rarest(study, "sgd-momentum"), rarest(study, "adam"))


def secondary(found: Found) -> list[Line]:
    """The exact part: which rows without gradient move in a step."""
    return [
        Line(
            f"rows without gradient that a step of {name} moves",
            f"{rows_moved(name.split()[0].rstrip(','), sparse, **more):.0%}",
        )
        for name, more, sparse in MOVERS
    ]


CLAIM = Claim(
    name="S-3",
    subject="SGD",
    says="SGD struggles with sparse gradients, and updates what it need not.",
    endpoint="Expected loss on the rarest tenth of 1,000 ids whose frequencies follow Zipf's law, of a "
    "linear classifier: that of SGD with momentum over Adam's, each at its best rate of 12.",
    scale=LOSS,
    experiments=(ZIPF,),
    values=values,
    reads="of Adam is that of SGD with momentum on rare ids",
    conditions="Rates are chosen for the loss of all examples, of which rare ids are few.",
    secondary=secondary,
    remedies=tuple(
        Remedy(
            name, what, "Adam", (REMEDIED,), trio_of(learned, ZIPF, REMEDIED, ("sgd-momentum", arm, "adam"))
        )
        for name, what, arm in (
            (
                "row-sparse steps",
                "SGD(momentum=0.9) on sparse gradients: rows without gradient rest",
                LAZY.name,
            ),
            (
                "row-sparse steps that catch up",
                "SGD(momentum=0.9, sparse='exact'): as dense, at the cost of the rows",
                EXACT.name,
            ),
            ("Adagrad on rows", "Adagrad() on sparse gradients", ADAGRAD.name),
        )
    ),
)
