"""Under `torch.compile` a step is a graph break, as its work is no torch graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_tracing = torch.compiler.is_dynamo_compiling
_callback = torch._C._dynamo.eval_frame.get_eval_frame_callback


def is_compiling() -> bool:
    """Say whether somebody compiles the frames that run now.

    To disable that for a function costs a microsecond or two, so it is done only where this says so.
    """
    return _tracing() or _callback() is not None


_WHY = (
    "Thalweg's optimizers are no torch graph: a step is one launch already. Compile the model, or the train "
    "step without fullgraph=True"
)


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` as one that `torch.compile` leaves alone with all that it calls, and is told why.

    Where nobody compiles, torch's compiler is not imported, which takes a second.
    """
    alone: Any = torch._disable_dynamo(function)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        found: T = alone(*args, **kwargs) if is_compiling() else function(*args, **kwargs)
        return found

    said: Any = called
    said._torchdynamo_disable = True
    said._torchdynamo_disable_msg = _WHY
    return called


def undecorated(method: Callable[P, T]) -> Callable[P, T]:
    """Return a bound method as it is below its decorator.

    That of torch's own methods imports torch's compiler; what calls them here is `uncompiled` itself.
    """
    function = getattr(method, "__wrapped__", None)
    if not isinstance(method, MethodType) or function is None:
        return method
    bound: Callable[P, T] = MethodType(function, method.__self__)
    return bound
