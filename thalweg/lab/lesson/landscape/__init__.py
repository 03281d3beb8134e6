"""The loss over the planes that three optimizers' runs span, measured, kept and drawn."""

from thalweg.lab.lesson.landscape.drawing import figures
from thalweg.lab.lesson.landscape.file import read, write
from thalweg.lab.lesson.landscape.measuring import WORKLOADS, measure

__all__ = ["WORKLOADS", "figures", "measure", "read", "write"]
