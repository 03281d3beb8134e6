"""What went wrong in a run: too little memory, divergence, or a model that was trained before."""

import re
import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.distributed.parts import part_of
from thalweg.lab.workload.errors import Doubt
from thalweg.lab.workload.tasks.errors import brief_error, text_of

_NOT_FINITE = re.compile(r"\b(nans?|infs?|infinity|infinities|infinite|finite|overflow\w*)\b", re.IGNORECASE)
"""What an error says that infinite numbers have caused."""

LARGEST = 1e100
"""Beyond this a metric or a loss is no result: intervals need squares of sums of them."""

_last: list[weakref.ref[Tensor]] = []
"""The parameters of the run before, in this process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch's CPU allocator and CUDA's libraries say only in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(
        words in text_of(error)
        for words in ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")
    )


def is_divergence(error: BaseException, parameters: Iterable[Tensor]) -> bool:
    """Whether an error after the first step comes from numbers that training has made infinite.

    Else it comes from a mistake.
    """
    if is_out_of_memory(error):
        return False
    # "math range error" is what `math.exp` says of too large a loss.
    if isinstance(error, OverflowError | FloatingPointError) or _NOT_FINITE.search(text_of(error)):
        return True
    # Of what processes share, the part that is here: the others may not be there to say what theirs are.
    return not all(bool(part_of(parameter).isfinite().all()) for parameter in parameters)


def is_result(value: float) -> bool:
    """Whether a metric or a loss is a number that can be reckoned with."""
    return abs(value) <= LARGEST


def divergence(error: BaseException) -> str:
    """The same in words, the task's among them."""
    return f"the task could make nothing of what training made: {brief_error(error)}"


def trained_before(parameters: Iterable[Tensor]) -> tuple[Doubt, ...]:
    """Whether these are the parameters that the run before has trained; called once for each run."""
    before = {id(parameter) for ref in _last if (parameter := ref()) is not None}
    own = [parameter for parameter in parameters if parameter.requires_grad]
    _last[:] = [weakref.ref(parameter) for parameter in own]
    if not any(id(parameter) in before for parameter in own):
        return ()
    text = (
        "model(seed) returns the parameters of the run before it, so training went on where that run had "
        "ended: no number here means what it should. Build a new model in it."
    )
    return (Doubt("model", text),)
