"""What does a step of a few small tensors cost, where only the host's time counts?

Run: python benchmarks/small_steps.py
"""

import torch

import thalweg
from thalweg.bench.measure import in_turns

PAIRS = {
    "AdamW": (torch.optim.AdamW, thalweg.AdamW, {}),
    "SGD momentum": (torch.optim.SGD, thalweg.SGD, {"momentum": 0.9}),
}

for count in (1, 4, 16, 64, 161):
    for name, (theirs, ours, settings) in PAIRS.items():
        ready = []
        for make, extra in ((theirs, {"fused": True}), (ours, {})):
            params = [torch.nn.Parameter(torch.randn(64)) for _ in range(count)]
            for param in params:
                param.grad = torch.randn_like(param)
            ready.append(make(params, lr=1e-3, **settings, **extra).step)
        c = in_turns(*ready, seconds=2)
        times = f"torch fused {c.baseline * 1e6:6.0f} us  thalweg {c.ours * 1e6:6.0f} us"
        print(f"{count:4} x 64  {name:13} {times}  ratio {c.ratio:.2f}")
