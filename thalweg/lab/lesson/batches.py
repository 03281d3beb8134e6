"""What happens when the batch size changes and nothing is tuned anew: experiments of a remedy for Adam."""

from dataclasses import replace
from functools import partial

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found, Scores, in_margins, scores
from thalweg.lab.lesson.plans import transferred
from thalweg.lab.spaces import Space

SIZES = (64, 16, 256)
"""Batch sizes; the rate is tuned in batches of the first."""

EXAMPLES = 16 * 719
"""That every run sees: 16 epochs of the digits."""


def in_batches(space: Space, name: str, size: int) -> Space:
    """An arm in batches of another size, of as many examples."""
    steps = EXAMPLES // size
    changes = {"batch_size": size, "steps": steps, "evaluate_every": max(1, steps // 4)}
    return arms.changed(space, f"{name}, batch {size}", **changes)


def scaled(name: str, *, rate: bool) -> tuple[Space, ...]:
    """Adam with betas, and perhaps the rate, scaled to each batch size but the first."""
    return tuple(
        in_batches(
            replace(arms.ADAM, arguments=partial(arms.scaled, kappa=size / SIZES[0], rate=rate)), name, size
        )
        for size in SIZES[1:]
    )


PLAIN = tuple(in_batches(arms.ADAM, "adam", size) for size in SIZES)
HALF_LIVES, SCALED = scaled("half-lives", rate=False), scaled("half-lives and rate", rate=True)

KEPT = Experiment("batches-adam-digits", workloads.digits, (*PLAIN, *HALF_LIVES, *SCALED), plan=transferred)
RETUNED = Experiment("batches-adam-digits-retuned", workloads.digits, PLAIN)


def range_over(found: Found, experiment: Experiment, several: tuple[Space, ...]) -> Scores:
    """How far the metric ranges over batch sizes, in margins, turned so that less is more."""
    study = found[experiment.name]
    each = [scores(study, space.name) for space in several]
    ranges = {
        seed: max(one[seed] for one in each) - min(one[seed] for one in each)
        for seed in each[0]
        if all(seed in one for one in each)
    }
    return {seed: -value for seed, value in in_margins(study, ranges).items()}
