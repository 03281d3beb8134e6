"""Batches: what is stepped by one launch, by the ways that gradients come.

A batch is a table of addresses, a list of chunks, and an engine that steps them on its device. Of its members
some may have no gradient in a step; they rest.
"""

from thalweg.stepping.batches.batch import Batch, Making, State
from thalweg.stepping.batches.kernel import DenseBatch, KernelBatch, StagedBatch
from thalweg.stepping.batches.kinds import batch_for
from thalweg.stepping.batches.reference import ReferenceBatch
from thalweg.stepping.batches.sparse import SparseBatch

__all__ = [
    "Batch",
    "DenseBatch",
    "KernelBatch",
    "Making",
    "ReferenceBatch",
    "SparseBatch",
    "StagedBatch",
    "State",
    "batch_for",
]
