"""Noise helps to leave shallow minima."""

from collections.abc import Callable

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, told
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, ahead, mean_of, scores
from thalweg.lab.lesson.plans import untuned
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.workload import Workload

ESCAPED = Scale(10.0, "points of escapes", digits=0)

PLAIN = arms.arm("sgd", "SGD", 1e-3, default=0.1)


def batches(name: str, make: Callable[[], Workload], sizes: tuple[int, ...]) -> Experiment:
    """SGD at one rate, in batches of several sizes; the first is the smallest, the last all there is."""
    made = tuple(arms.changed(PLAIN, f"batch {size}", batch_size=size) for size in sizes)
    return Experiment(name, make, made, plan=untuned)


WELL = batches("double-well", workloads.double_well, (1, 4, 16, 1024))
DIGITS = batches("leaving-digits", workloads.leaving_digits, (8, 32, 719))


def values(found: Found) -> Scores:
    """Escapes of the smallest batches minus those of the full batch, mean of both."""
    pairs = [(found[e.name], e.arms[0].name, e.arms[-1].name) for e in (WELL, DIGITS)]
    return mean_of([ahead(*pair) for pair in pairs])


def secondary(found: Found) -> list[Line]:
    """How many escape, by batch size."""
    return [
        told(f"{e.name}, {arm.name}", scores(found[e.name], arm.name), ESCAPED)
        for e in (WELL, DIGITS)
        for arm in e.arms
    ]


CLAIM = Claim(
    name="G2",
    subject="In general",
    says="The noise of small batches helps to leave shallow minima.",
    endpoint="How often SGD at a rate of 0.1 leaves a minimum, in the smallest batches minus in full "
    "batches: particles in the shallow one of two wells, and a network on digits that the full "
    "batch had converged; mean of both.",
    scale=ESCAPED,
    experiments=(WELL, DIGITS),
    values=values,
    reads="more in the smallest batches than in full ones",
    conditions="Whether where it goes is better is not asked. In the wells the noise is as large as the "
    "forces, by construction.",
    secondary=secondary,
)
