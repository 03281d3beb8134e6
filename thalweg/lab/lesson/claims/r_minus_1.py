"""RMSprop's decay rate needs tuning."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, in_margins, mean_of, range_of
from thalweg.lab.lesson.plans import extremes
from thalweg.lab.lesson.scale import MARGINS

ALPHAS = (0.99, 0.5, 0.7, 0.9, 0.95, 0.999, 0.9999)

RATES = 9

GRID = tuple(arms.arm(f"rmsprop alpha={alpha:g}", "RMSprop", 1e-5, alpha=alpha) for alpha in ALPHAS)
"""The first is the default."""

GRIDS = tuple(
    Experiment(f"grid-rmsprop-{name}", make, GRID, plan=extremes, trials=RATES)
    for name, make in (("digits", workloads.digits), ("speech", workloads.speech))
)


def values(found: Found) -> Scores:
    """The range over alpha in margins, mean of the workloads."""
    return mean_of([in_margins(found[e.name], range_of(found[e.name])) for e in GRIDS])


def secondary(found: Found) -> list[Line]:
    """Each workload by itself."""
    return [
        told(
            f"range on {e.name.rpartition('-')[2]}",
            in_margins(found[e.name], range_of(found[e.name])),
            MARGINS,
        )
        for e in GRIDS
    ]


CLAIM = Claim(
    name="R-1",
    subject="RMSprop",
    says="RMSprop's decay rate needs tuning.",
    endpoint="The test metric at the best of seven alphas from 0.5 to 0.9999 minus that at the worst, the "
    "rate tuned anew at each from 9 over four decades, in margins, mean of digits and speech. Best"
    " and worst are named in tuning and measured on fresh seeds.",
    scale=MARGINS,
    experiments=GRIDS,
    values=values,
    reads="of the workload lie between the best and the worst alpha",
    conditions="The range depends on the alphas that are tried.",
    secondary=secondary,
)
