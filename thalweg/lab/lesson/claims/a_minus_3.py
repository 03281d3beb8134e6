"""Adam is sensitive to betas and eps."""

from collections.abc import Callable
from itertools import product

from thalweg.lab.lesson import arms, batches, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, Trio, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, in_margins, mean_of, range_of, rates_of
from thalweg.lab.lesson.plans import extremes
from thalweg.lab.lesson.scale import MARGINS
from thalweg.lab.spaces import Space

BETAS1, BETAS2, EPSILONS = (0.9, 0.0, 0.5, 0.99), (0.999, 0.9, 0.99, 0.9999), (1e-8, 1e-6, 1e-4, 1e-2)

RATES = 5

GRID = tuple(
    arms.arm(f"adam b1={beta1:g} b2={beta2:g} eps={eps:g}", "Adam", 1e-5, betas=(beta1, beta2), eps=eps)
    for beta1, beta2, eps in product(BETAS1, BETAS2, EPSILONS)
)
"""The first is the default."""

GRIDS = tuple(
    Experiment(f"grid-adam-{name}", make, GRID, plan=extremes, trials=RATES)
    for name, make in (("digits", workloads.digits), ("text", workloads.text))
)


def values(found: Found) -> Scores:
    """The range over the grid in margins, mean of the workloads."""
    return mean_of([in_margins(found[e.name], range_of(found[e.name])) for e in GRIDS])


def secondary(found: Found) -> list[Line]:
    """Each workload by itself, and the range over the rate with the defaults."""
    lines = []
    for e in GRIDS:
        study = found[e.name]
        lines += [
            told(f"range on {e.name.rpartition('-')[2]}", in_margins(study, range_of(study)), MARGINS),
            Line(
                f"range over two decades of rate, defaults, on {e.name.rpartition('-')[2]}", rates_of(study)
            ),
        ]
    return lines


def remedied(several: tuple[Space, ...]) -> Callable[[Found], Trio | None]:
    """Ranges over batch sizes without tuning anew, with the remedy, and with each size tuned."""

    def trio(found: Found) -> Trio | None:
        return Trio(
            batches.range_over(found, batches.KEPT, batches.PLAIN),
            batches.range_over(found, batches.KEPT, (batches.PLAIN[0], *several)),
            batches.range_over(found, batches.RETUNED, batches.PLAIN),
        )

    return trio


CLAIM = Claim(
    name="A-3",
    subject="Adam",
    says="Adam is sensitive to its betas and to eps.",
    endpoint="The test metric at the best of 64 settings of beta1, beta2 and eps minus that at the worst, "
    "the rate tuned anew at each from 5 over four decades, in margins, mean of digits and text. "
    "Best and worst are named in tuning and measured on fresh seeds.",
    scale=MARGINS,
    experiments=GRIDS,
    values=values,
    reads="of the workload lie between the best and the worst setting",
    conditions="The range depends on the grid: beta1 0 to 0.99, beta2 0.9 to 0.9999, eps 1e-8 to 0.01.",
    secondary=secondary,
    remedies=tuple(
        Remedy(
            name,
            what,
            "Adam with the rate tuned anew; the endpoint is the range over batches of 16, 64 and 256",
            (batches.KEPT, batches.RETUNED),
            remedied(several),
        )
        for name, what, several in (
            (
                "half-lives in samples",
                "betas as half_life(samples, batch_size) gives them",
                batches.HALF_LIVES,
            ),
            ("half-lives and rate", "scaled_to(options, kappa, rule='sqrt')", batches.SCALED),
        )
    ),
)
