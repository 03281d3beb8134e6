"""The pictures of a report, each with a title that says what it shows."""

from thalweg.lab.figures.cost import memory, speed
from thalweg.lab.figures.curves import curves
from thalweg.lab.figures.figure import Figure
from thalweg.lab.figures.rates import rates
from thalweg.lab.figures.seeds import lead, seeds
from thalweg.lab.figures.target import target
from thalweg.lab.figures.tuning import tuning
from thalweg.lab.study import Study
from thalweg.lab.verdict import Verdict

__all__ = ["Figure", "draw"]

PICTURES = (curves, lead, seeds, rates, tuning, target, speed, memory)


def draw(study: Study, verdict: Verdict) -> list[Figure]:
    """The pictures that can be drawn of the records there are, in the order in which they are read."""
    drawn = (picture(study, verdict) for picture in PICTURES)
    return [figure for figure in drawn if figure is not None]
