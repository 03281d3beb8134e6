"""Runs torch's own tests of optimizers with ours in torch's place: `python tests/torch_suites.py PYTORCH`.

PYTORCH is a checkout of pytorch, or a folder with its `test`, best of the torch that is installed. Each file
of tests runs twice, with torch's classes and with ours. What fails with ours alone is compared with
`DIFFERENCES`; anything beyond is printed, and makes the exit status 1.

In the processes that run the tests, pytest loads this file as a plugin, which substitutes the classes and
notes the outcomes. In those that distributed tests start, Python's `sitecustomize` substitutes them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import pytest

SUITES = {
    "test_optim.py": "TestOptimRenewed",  # it imports the other files' tests too
    "optim/test_optim.py": "",
    "optim/test_lrscheduler.py": "",
    "optim/test_swa_utils.py": "",
    "test_torch.py": "grad_scal",
    "distributed/tensor/test_optimizers.py": "",
    "distributed/_tensor/test_optimizers.py": "",
    "distributed/checkpoint/test_state_dict.py": "",
    "distributed/checkpoint/test_state_dict_utils.py": "",
    "distributed/optim/test_zero_redundancy_optimizer.py": "",
    "distributed/optim/test_apply_optimizer_in_backward.py": "",
}
"""Files below `test`, and which of their tests, as pytest's `-k` takes it."""


TO_CPUS = {r'"cuda"': '"cpu"', r"torch\.cuda\.device_count\(\)": "4", r"(?m)^ *@skip_if_lt_x_gpu.*\n": ""}
"""What is replaced in files that ask for GPUs: without any, their tests start no process and "pass". What
needs a GPU all the same fails with torch's classes too."""

ASKING_FOR_GPUS = (
    "distributed/checkpoint/test_state_dict.py",
    "distributed/checkpoint/test_state_dict_utils.py",
)


class Difference(NamedTuple):
    """Says of which tests a failure with ours alone is expected: patterns of ids and messages, and why."""

    tests: str
    says: str
    why: str


WORDING = "our errors name the argument, the value and what is allowed"

DIFFERENCES = [
    Difference(r"::test_errors_\w+_cpu", r'"Invalid .*" does not match ".* must be .*, not ', WORDING),
    Difference(
        r"::TestOptim::test_ada|::TestOptim::test_[nr]", r'"Invalid .*" does not match ".* must be', WORDING
    ),
    Difference(
        r"::test_fused_error_on_params_on_meta_",
        "RuntimeError not raised",
        "parameters on meta can be stepped",
    ),
    Difference(
        r"TestDifferentiableOptimizer::test_nadam",
        r"Jacobian mismatch for output 0 with respect to input 4",
        "counters have the default dtype, which is too coarse for differences of a float64 mu_product",
    ),
    Difference(
        r"::test_apply_optimizer_in_backward_shared_params",
        "Tensor-likes are not close",
        "a parameter that is listed twice in a group is stepped once",
    ),
]
"""What is known, and meant."""

SUBSTITUTED = ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam")
OURS, NOTES = "THALWEG_SUITES_OURS", "THALWEG_SUITES_NOTES"


# --- in the processes that run torch's tests ---

_outcomes: dict[str, str] = {}
_messages: dict[str, str] = {}


def substitute() -> None:
    """Put our classes in torch's place, before torch's database of optimizers is made of them."""
    if os.environ.get(OURS) == "1":
        import torch

        import thalweg

        assert "torch.testing._internal.common_optimizers" not in sys.modules
        for name in SUBSTITUTED:
            setattr(torch.optim, name, getattr(thalweg, name))


def pytest_configure() -> None:
    """Have torch's tests find ours, and what an older checkout asks for."""
    for name in ("common_cuda", "common_device_type", "common_mkldnn", "common_utils"):
        module = importlib.import_module(f"torch.testing._internal.{name}")
        module.__getattr__ = _stand_in  # type: ignore[method-assign]


def _stand_in(name: str) -> Any:
    """Return what skips a test, for a helper that an older checkout imports and torch has no more."""
    if name.startswith("__"):
        raise AttributeError(name)
    skip = unittest.skip(f"torch has no {name} any more")
    return lambda *given, **_: skip(given[0]) if len(given) == 1 and callable(given[0]) else skip


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note an outcome; a failed part fails its test."""
    before = _outcomes.get(report.nodeid)
    if before == "failed" or (report.when != "call" and report.outcome == "passed"):
        return
    _outcomes[report.nodeid] = report.outcome
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        _messages[report.nodeid] = str(crash.message if crash else report.longrepr).strip()


def pytest_sessionfinish() -> None:
    """Hand the outcomes over."""
    if NOTES in os.environ:
        Path(os.environ[NOTES]).write_text(json.dumps({"outcomes": _outcomes, "messages": _messages}))


# --- the command ---


class UnrunnableError(Exception):
    """Says that a file of tests cannot be run, as one that is too new or old for the installed torch."""


def run(tests: Path, file: str, chosen: str, ours: bool) -> dict[str, Any]:
    """Run a file of torch's tests; return the outcome of each, and what the failed ones say."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.json"
        here = Path(__file__).resolve().parent
        (Path(folder) / "sitecustomize.py").write_text("import torch_suites\ntorch_suites.substitute()\n")
        path = os.pathsep.join([folder, str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        env = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTORCH_TESTING_DEVICE_ONLY_FOR": "cpu",
            "PYTORCH_PRINT_REPRO_ON_FAILURE": "0",
            OURS: str(int(ours)),
            NOTES: str(notes),
        }
        place = tests
        if file in ASKING_FOR_GPUS:
            place, source = Path(folder), (tests / file).read_text()
            file = Path(file).name
            for pattern, replacement in TO_CPUS.items():
                source = re.sub(pattern, replacement, source)
            (place / file).write_text(source)
        options = ["-p", "torch_suites", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(place)]
        options += ["--noconftest", "-q", "--disable-warnings"] + ["-k", chosen] * bool(chosen)
        command = [sys.executable, "-m", "pytest", *options, file]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
            return {"outcomes": {}, "messages": {}}
        if done.returncode > pytest.ExitCode.TESTS_FAILED or not notes.exists():
            print(f"{' '.join(command)}\n{done.stdout}{done.stderr}", file=sys.stderr)
            raise UnrunnableError(file)
        return json.loads(notes.read_text())


def reason(test: str, message: str) -> str | None:
    """Return why a test fails with ours, if that is known."""
    known = (d.why for d in DIFFERENCES if re.search(d.tests, test) and re.search(d.says, message))
    return next(known, None)


def counts(outcomes: Mapping[str, str]) -> str:
    found = Counter(outcomes.values())
    return " / ".join(str(found[key]) for key in ("passed", "failed", "skipped"))


def compare(tests: Path, file: str, chosen: str) -> dict[str, str]:
    """Run a file both ways and print a line; return which tests ours alone fail, and what they say."""
    theirs, ours = (run(tests, file, chosen, who) for who in (False, True))
    failed = {
        test: ours["messages"][test]
        for test, outcome in ours["outcomes"].items()
        if outcome == "failed" and theirs["outcomes"].get(test) != "failed"
    }
    print(LINE.format(file, counts(theirs["outcomes"]), counts(ours["outcomes"]), len(failed)), flush=True)
    return failed


LINE = "{:52} {:>18} {:>18} {:>12}"


def main() -> int:
    """Run all, print the table and what ours alone fail; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pytorch", type=Path, help="a checkout of pytorch, or a folder with its `test`")
    parser.add_argument("--only", default="", help="run files whose path below `test` begins like this")
    parser.add_argument("--tests", default="", help="run these of their tests, as pytest's -k takes it")
    given = parser.parse_args()
    tests = (given.pytorch / "test").resolve()
    files = {f: k for f, k in SUITES.items() if (tests / f).exists() and f.startswith(given.only)}
    if not files:
        parser.error(f"there is none of {', '.join(SUITES)} in {tests}")
    print(LINE.format("passed / failed / skipped", "torch", "thalweg", "ours alone"))
    failed, broken = {}, False
    for file, chosen in files.items():
        try:
            failed |= compare(tests, file, given.tests or chosen)
        except UnrunnableError:
            broken = True
    reasons = {test: reason(test, message) for test, message in failed.items()}
    for why, number in Counter(filter(None, reasons.values())).items():
        print(f"{number:4} known: {why}")
    unknown = [test for test, why in reasons.items() if why is None]
    for test in unknown:
        print(f"UNKNOWN {test}: {indent(failed[test], ' ' * 4).strip()}")
    return int(bool(unknown) or broken)


if __name__ == "__main__":
    sys.exit(main())
