"""What does a step cost that names few rows of a large table, beside a dense one and torch's?

Run: python benchmarks/sparse.py [ROWS [WIDTH [NAMED]]]; by default 2,000,000 x 64 float32, 4,096 rows a step.
Adam needs 3 times the table's memory, and once more for the dense gradient. Rows are named uniformly at
random, without repetition by gradients that are coalesced, and by such that are not (`repeated`), where an
eighth of them is named twice. Figures are medians; what makes the gradient is not timed.
"""

import itertools
import sys
import time
import warnings

import numpy as np
import torch

import thalweg

warnings.filterwarnings("ignore", "Sparse invariant checks")
ROWS, WIDTH, NAMED = (int(x) for x in (*sys.argv[1:], *(2_000_000, 64, 4_096)[len(sys.argv) - 1 :]))
STEPS, DENSE_STEPS, WARM = 200, 7, 20

ADAM, MOMENTUM = {"lr": 1e-3}, {"lr": 1e-3, "momentum": 0.9}
RUNS = {
    "torch SparseAdam": (torch.optim.SparseAdam, ADAM),
    "Adam lazy": (thalweg.Adam, ADAM),
    "Adam exact": (thalweg.Adam, ADAM | {"sparse": "exact"}),
    "torch SGD": (torch.optim.SGD, {"lr": 1e-3}),
    "SGD lazy": (thalweg.SGD, {"lr": 1e-3}),
    "SGD momentum lazy": (thalweg.SGD, MOMENTUM),
    "SGD momentum exact": (thalweg.SGD, MOMENTUM | {"sparse": "exact"}),
    "torch Adagrad": (torch.optim.Adagrad, {"lr": 1e-3}),
    "Adagrad lazy": (thalweg.Adagrad, {"lr": 1e-3}),
}


def gradient(repeated: bool) -> torch.Tensor:
    """Return a gradient that names rows at random."""
    rows = torch.from_numpy(np.sort(np.random.default_rng(next(SEEDS)).choice(ROWS, NAMED, replace=False)))
    if repeated:
        rows[: NAMED // 8] = rows[NAMED // 8 : NAMED // 8 * 2]
    values = torch.randn(NAMED, WIDTH)
    return torch.sparse_coo_tensor(rows[None], values, (ROWS, WIDTH), is_coalesced=not repeated)


SEEDS = itertools.count()


def times(optimizer: torch.optim.Optimizer, param: torch.Tensor, repeated: bool) -> np.ndarray:
    """Return the seconds of each step."""
    found = []
    for _ in range(STEPS):
        param.grad = gradient(repeated)
        begin = time.perf_counter()
        optimizer.step()
        found.append(time.perf_counter() - begin)
    return np.array(found[WARM:])


def dense(param: torch.Tensor) -> float:
    """Return the seconds of a dense step of AdamW."""
    param.grad = torch.zeros_like(param)
    optimizer = thalweg.Adam([param], **ADAM)
    found = []
    for _ in range(DENSE_STEPS):
        begin = time.perf_counter()
        optimizer.step()
        found.append(time.perf_counter() - begin)
    param.grad = None
    return float(np.median(found[2:]))


table = torch.nn.Parameter(torch.randn(ROWS, WIDTH))
whole = dense(table)
print(f"{ROWS:,} x {WIDTH}, {NAMED:,} rows a step; {torch.get_num_threads()} threads")
print(f"{'dense Adam':20} {whole * 1e3:9.2f} ms")
for name, (make, settings) in RUNS.items():
    optimizer = make([table], **settings)
    once, twice = (float(np.median(times(optimizer, table, repeated))) for repeated in (False, True))
    ratio = f"{whole / once:7.0f} times as fast as dense"
    print(f"{name:20} {once * 1e3:9.2f} ms  repeated {twice * 1e3:9.2f} ms  {ratio}")
    if isinstance(optimizer, thalweg.Optimizer) and "exact" in name:
        begin = time.perf_counter()
        optimizer.flush()
        print(f"{'  flush':20} {(time.perf_counter() - begin) * 1e3:9.2f} ms")
    optimizer.state.clear()
    del optimizer
