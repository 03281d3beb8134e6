"""The pictures of a report, each with a title that says what it shows."""

from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing.figures.cost import memory, speed
from thalweg.lab.showing.figures.curves import curves
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.rates import rates
from thalweg.lab.showing.figures.seeds import lead, seeds
from thalweg.lab.showing.figures.target import target
from thalweg.lab.showing.figures.tuning import tuning
from thalweg.lab.showing.figures.updates import updates
from thalweg.lab.study.study import Study

__all__ = ["Figure", "draw", "updates"]

PICTURES = (curves, lead, seeds, rates, tuning, target, speed, memory)


def draw(study: Study, verdict: Verdict) -> list[Figure]:
    """The pictures that can be drawn of the records there are, in the order in which they are read."""
    drawn = (picture(study, verdict) for picture in PICTURES)
    return [figure for figure in drawn if figure is not None]
