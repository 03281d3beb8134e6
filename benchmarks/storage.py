"""What does storage in fewer bytes cost in arithmetic? One thread, tensors that fit the caches, beside torch.

With more elements than fit, fewer bytes count too: `thalweg bench steps` has those cases.

Run: python benchmarks/storage.py
"""

from __future__ import annotations

import torch

import thalweg
from thalweg.bench.measure import in_turns

ELEMENTS = 1 << 18
CASES = [
    ("AdamW", {}, torch.float32),
    ("AdamW", {"state": "bfloat16"}, torch.float32),
    ("AdamW", {"state": "int8"}, torch.float32),
    ("AdamW", {"state": "block8"}, torch.float32),
    ("AdamW", {"state": {"exp_avg": "int8"}}, torch.float32),
    ("AdamW", {"weight_bits": 16}, torch.bfloat16),
    ("AdamW", {"weight_bits": 24}, torch.bfloat16),
    ("AdamW", {"weight_bits": 32}, torch.bfloat16),
    ("AdamW", {"weight_bits": 24, "state": "int8"}, torch.bfloat16),
    ("SGD", {}, torch.float32),
    ("SGD", {"state": "int8"}, torch.float32),
]

torch.set_num_threads(1)
print(f"ns an element, {ELEMENTS} elements, one thread; ratio: torch's fused float32 step / ours [quartiles]")
for name, storage, dtype in CASES:
    kwargs = {"lr": 1e-2, **({"momentum": 0.9} if name == "SGD" else {})}
    steps = []
    for module, extra, kind in ((torch.optim, {"fused": True}, torch.float32), (thalweg, storage, dtype)):
        param = torch.nn.Parameter(torch.randn(ELEMENTS, dtype=kind))
        param.grad = torch.randn(ELEMENTS).to(kind)
        steps.append(getattr(module, name)([param], **kwargs, **extra).step)
    c = in_turns(*steps, seconds=3)
    ours, theirs = (seconds / ELEMENTS * 1e9 for seconds in (c.ours, c.baseline))
    label = " ".join(f"{key}={value}" for key, value in storage.items()) or "float32"
    print(
        f"{name:6} {label:32} {theirs:6.2f} {ours:6.2f}   {c.ratio:.2f} [{c.low:.2f}, {c.high:.2f}]",
        flush=True,
    )
