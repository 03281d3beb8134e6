"""Which batch a parameter goes to, by where it lies and how its gradients come."""

from __future__ import annotations

from thalweg.stepping.batches.batch import Batch
from thalweg.stepping.batches.kernel import DenseBatch, StagedBatch
from thalweg.stepping.batches.reference import ReferenceBatch
from thalweg.stepping.batches.sparse import SparseBatch
from thalweg.stepping.engines import CpuEngine, engine_for
from thalweg.stepping.member import Sort
from thalweg.storage.codecs import codec_of
from thalweg.storage.codecs.means import ROW, TENSOR


def batch_for(sort: Sort) -> type[Batch]:
    """Return the batch of what is stepped by gradients of a sort."""
    grad, engine = sort.gradient, engine_for(sort.device)
    has_kernel = (
        engine is not None
        and sort.has_memory
        and grad.has_memory
        and grad.device == sort.device
        and not sort.is_differentiable
        and all(engine.supports(codec) for codec in (codec_of(grad.dtype), *sort.codecs.values()))
    )
    # Only the host knows how long rows have rested, and a device may skip steps without telling it.
    rests_apart = grad.is_sparse and sort.recipe.catches_up and sort.device.type != "cpu"
    has_means_elsewhere = sort.mean is not None and not _has_kernel_of_means(sort)
    is_elsewhere = sort.is_shard and not _has_kernel_of_shards(sort)
    if not has_kernel or rests_apart or has_means_elsewhere or is_elsewhere:
        return ReferenceBatch
    if grad.is_sparse:
        return SparseBatch
    return DenseBatch if grad.is_dense and sort.is_contiguous and not sort.dtype.is_complex else StagedBatch


def _has_kernel_of_means(sort: Sort) -> bool:
    """Say whether what has one number lies in one piece, which kernels go over twice; columns do not.

    One thread goes over a piece, which may be a whole tensor, but not one program of a GPU.
    """
    assert sort.mean is not None, "the caller has asked"
    if sort.mean.per == ROW:
        return sort.gradient.is_sparse or sort.has_rows
    return sort.mean.per == TENSOR and engine_for(sort.device) is CpuEngine


def _has_kernel_of_shards(sort: Sort) -> bool:
    """Say whether parts of DTensors are stepped by kernels; random words ask for neighbours in the whole."""
    return engine_for(sort.device) is CpuEngine and (sort.is_contiguous or not sort.draws)
