"""The whole update on a GPU, clip, step and average in one pass, beside torch's three calls.

`thalweg/bench/gpu_update.py` says what is measured and how; what is not measured within the time is said in
the table.

Run: python benchmarks/gpu_update.py [--seconds S] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

import thalweg
from thalweg.bench import gpu_update, meters, table
from thalweg.lowering.files import prepare_folder, write_atomically

SECONDS = 120.0
"""For all cases. A case that has begun ends; the slowest first step compiles for some seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of the table")
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu_update.py: no GPU that torch can use", file=sys.stderr)
        return 2
    if options.out is not None:
        prepare_folder(options.out.parent)
    card = torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}, thalweg {thalweg.__version__}")
    rows = gpu_update.measure(gpu_update.cases(), meters.CudaMeter(), options.seconds, time.perf_counter)
    report(rows, card, options.out)
    return 0


def report(measured: Iterable[table.Row], card: str, out: Path | None) -> None:
    """Print the table as it is measured, and write it if asked."""
    rows = []
    print(table.HEADER)
    for row in measured:
        rows.append(row)
        print(table.line(row), flush=True)
    if out is not None:
        versions = {"torch": torch.__version__, "thalweg": thalweg.__version__}
        figures = {"card": card, "versions": versions, "rows": [asdict(row) for row in rows]}
        write_atomically(out, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
