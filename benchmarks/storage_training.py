"""Does training with state in fewer bytes end where it ends with float32? AdamW, paired seeds.

For each workload: the final test metric with float32 state, and what bfloat16 and int8 differ by on the same
seeds (the same weights to begin with, the same batches), with a 95 % interval and the margin of a tie as
`thalweg compare` takes it: 0.5 points of a metric in per cent, else 2 % of the mean.

Run: python benchmarks/storage_training.py [WORKLOAD ...] [--seeds N] [--workers N] [--optimizer NAME]
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from thalweg.lab.judging.statistics import mean_interval
from thalweg.lab.running.trial import run
from thalweg.lab.spaces import SPACES
from thalweg.lab.study.record import Trial
from thalweg.lab.study.study import margin_of
from thalweg.lab.workload.shipped import find

STORAGES = ("float32", "bfloat16", "int8")
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "adamw": {
        "digits": {"lr": 0.0209, "betas": (0.579, 0.999)},
        "text": {"lr": 0.00099},
        "speech": {"lr": 0.0155},
    },
}
"""What `thalweg compare` has chosen on validation (docs/reports)."""
FIRST_SEED = 1000
"""Not among the seeds that the comparisons of docs/reports have used."""


def final_metric(optimizer: str, workload: str, storage: str, seed: int) -> float:
    """Return the test metric of one run in this process, on one thread."""
    torch.set_num_threads(1)
    settings = {**TUNED[optimizer][workload], "state": storage}
    record = run(Trial("final", storage, SPACES[optimizer].optimizer, settings, {}, seed), find(workload))
    if record.test is None:
        raise RuntimeError(f"{workload}, {storage}, seed {seed}: {record.failure}")
    return record.test.metric


def compare(optimizer: str, name: str, seeds: range, pool: ProcessPoolExecutor) -> None:
    """Measure and print one workload."""
    jobs = {
        (storage, seed): pool.submit(final_metric, optimizer, name, storage, seed)
        for seed in seeds
        for storage in STORAGES
    }
    metrics = {key: job.result() for key, job in jobs.items()}
    workload = find(name)
    kept = statistics.fmean(metrics["float32", seed] for seed in seeds)
    least = margin_of(workload).at(kept)
    print(f"{name}: {workload.metric} with float32 {kept:.4g}, {len(seeds)} seeds, margin {least:.3g}")
    for storage in STORAGES[1:]:
        differences = [metrics[storage, seed] - metrics["float32", seed] for seed in seeds]
        found = mean_interval(differences)
        inside = -least < found.low and found.high < least
        print(
            f"  {storage:9} {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]  "
            f"{'inside' if inside else 'NOT inside'} the margin",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=["digits", "speech", "text"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--optimizer", choices=list(TUNED), default="adamw")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for name in options.workloads:
            compare(options.optimizer, name, range(FIRST_SEED, FIRST_SEED + options.seeds), pool)
