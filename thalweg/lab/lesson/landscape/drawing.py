"""The pictures of all landscapes that are kept."""

from pathlib import Path

from thalweg.lab.lesson.landscape.file import read
from thalweg.lab.lesson.landscape.lines import lines
from thalweg.lab.lesson.landscape.measuring import WORKLOADS
from thalweg.lab.lesson.landscape.planes import planes
from thalweg.lab.showing.figures.figure import Figure


def figures(folder: Path, *, quick: bool = False) -> list[Figure]:
    """The pictures of all landscapes that are kept: for each workload its planes and its lines.

    Raises:
        ValueError: a file is damaged.
    """
    kept = [read(folder, workload, quick=quick) for workload in WORKLOADS]
    return [figure for one in kept if one is not None for figure in (planes(one), lines(one))]
