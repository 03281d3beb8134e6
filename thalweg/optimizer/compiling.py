"""Under `torch.compile` a step is a graph break, as its work is no torch graph."""

from __future__ import annotations

import torch

_tracing = torch.compiler.is_dynamo_compiling
_callback = torch._C._dynamo.eval_frame.get_eval_frame_callback


def is_compiling() -> bool:
    """Say whether somebody compiles the frames that run now.

    To disable that for a function costs a microsecond or two, so it is done only where this says so.
    """
    return _tracing() or _callback() is not None
