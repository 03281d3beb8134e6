"""Steps, trainings, the whole update and start-up beside torch: `thalweg bench` without the lab's packages.

Run: python benchmarks/cpu.py [steps|training|update|startup ...] [--seconds S] [--out FILE]
"""

import argparse
from pathlib import Path

from thalweg.bench.command import PARTS, check, run

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=PARTS)
parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the tables")
parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
options = parser.parse_args()
run(check(options.parts or PARTS, options.seconds, options.out), print)
