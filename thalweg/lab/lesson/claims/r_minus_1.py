"""RMSprop's decay rate needs tuning."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, Trio, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, in_margins, mean_of, range_of
from thalweg.lab.lesson.plans import extremes
from thalweg.lab.lesson.scale import MARGINS
from thalweg.lab.spaces import Space

ALPHAS = (0.99, 0.5, 0.7, 0.9, 0.95, 0.999, 0.9999)

RATES = 9

GRID = tuple(arms.arm(f"rmsprop alpha={alpha:g}", "RMSprop", 1e-5, alpha=alpha) for alpha in ALPHAS)
"""The first is the default."""

CORRECTED = tuple(
    arms.arm(f"debiased alpha={alpha:g}", "RMSprop", 1e-5, alpha=alpha, debias=True) for alpha in ALPHAS
)
BETA2 = tuple(arms.arm(f"adam beta2={alpha:g}", "Adam", 1e-5, betas=(0.9, alpha)) for alpha in ALPHAS)


def grids(name: str, several: tuple[Space, ...]) -> tuple[Experiment, ...]:
    """A grid on each workload."""
    return tuple(
        Experiment(f"grid-{name}-{place}", make, several, plan=extremes, trials=RATES)
        for place, make in (("digits", workloads.digits), ("speech", workloads.speech_short))
    )


GRIDS, DEBIASED, ADAM = (
    grids("rmsprop", GRID),
    grids("rmsprop-debiased", CORRECTED),
    grids("adam-beta2", BETA2),
)


def values(found: Found, over: tuple[Experiment, ...] = GRIDS) -> Scores:
    """The range over alpha in margins, mean of the workloads."""
    return mean_of([in_margins(found[e.name], range_of(found[e.name])) for e in over])


def trio(found: Found) -> Trio | None:
    """Ranges, turned so that less is more: RMSprop, with bias correction, and Adam over beta2."""
    return Trio(
        *({seed: -value for seed, value in values(found, e).items()} for e in (GRIDS, DEBIASED, ADAM))
    )


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
    remedies=(
        Remedy(
            "bias correction",
            "RMSprop(debias=True), no cost",
            "Adam over the same values of beta2",
            (*DEBIASED, *ADAM),
            trio,
        ),
    ),
)
