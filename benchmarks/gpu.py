"""Our step on a GPU beside torch's fused and foreach ones, bitsandbytes, torchao and flashoptim.

Ends within 8 minutes on an H100: what is not measured by then is said in the table. `thalweg/bench/gpu.py`
and `meters.py` say what is measured and how.

Run: python benchmarks/gpu.py [--seconds S] [--quick] [--storage NAME] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import thalweg
from thalweg.bench import cases, gpu, meters, table
from thalweg.bench.rivals import STORAGES
from thalweg.lowering.files import prepare_folder, write_atomically

SECONDS = 420.0
"""For all cases. A case that has begun ends; the slowest first step compiles for some seconds."""

BESIDE = ("triton", "bitsandbytes", "torchao", "flashoptim")


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "thalweg": thalweg.__version__}
    for name in BESIDE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of the table")
    parser.add_argument("--quick", action="store_true", help="a smoke run: float32, 30 seconds")
    parser.add_argument("--storage", choices=[s.name for s in STORAGES], help="only how this is stored")
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no GPU that torch can use", file=sys.stderr)
        return 2
    if options.out is not None:
        prepare_folder(options.out.parent)
    # Weights that small steps cannot move are no news here.
    warnings.filterwarnings("ignore", "the first step of parameter group")
    seconds = min(options.seconds, 30.0) if options.quick else options.seconds
    card, used = torch.cuda.get_device_name(), versions()
    print(f"{card}, " + ", ".join(f"{name} {number}" for name, number in used.items()))
    print(table.HEADER)
    rows = []
    chosen = [c for c in cases.cases(quick=options.quick) if options.storage in (None, c.storage.name)]
    for row in gpu.measure(chosen, meters.CudaMeter(), seconds, time.perf_counter):
        rows.append(row)
        print(table.line(row), flush=True)
    if options.out is not None:
        figures = {"card": card, "versions": used, "rows": [asdict(row) for row in rows]}
        write_atomically(options.out, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
