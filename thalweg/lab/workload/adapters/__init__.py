"""Trainings written for something else, as tasks: Lightning's, Hugging Face's, a plain function that reports.

None of their packages is imported before a task of theirs is made.
"""

from thalweg.lab.workload.adapters.function import FunctionTask
from thalweg.lab.workload.adapters.lightning import LightningTask
from thalweg.lab.workload.adapters.transformers import TransformersTask

__all__ = ["FunctionTask", "LightningTask", "TransformersTask"]
