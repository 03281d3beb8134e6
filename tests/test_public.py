"""What `docs/public.md` calls public is there, and has not shrunk unseen."""

from __future__ import annotations

import importlib
import re

import pytest
from pages import ROOT

import thalweg as tw

TEXT = (ROOT / "docs/public.md").read_text(encoding="utf-8")

SINCE_0_2 = {
    "thalweg": "SAM SGD Adadelta Adagrad Adam AdamW Adamax Lion Mixed NAdam Optimizer Prodigy RAdam RMSprop "
    "__version__ half_life half_life_of memory param_groups rmsprop_for_vision scaled_to schedules "
    "second_moment_snr",
    "thalweg.lab": "Axis Evaluation Recipe Result Run Space Split Together Workload compare device_of "
    "find_rate rate sensitivity tasks",
    "thalweg.lab.workload.adapters": "FunctionTask LightningTask TransformersTask",
}
"""Names that version 0.2 has; none may go without a version in which it is deprecated."""


@pytest.mark.parametrize("module", re.findall(r"`(thalweg[\w.]*)\.__all__`", TEXT))
def test_public_names_are_there(module):
    door = importlib.import_module(module)
    assert {*SINCE_0_2.get(module, "").split()} <= {*door.__all__}
    for name in door.__all__:
        assert getattr(door, name) is not None


def test_versions_agree():
    minor = ".".join(tw.__version__.split(".")[:2])
    assert f"Version {minor}." in TEXT
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert first[1] in (tw.__version__, "Unreleased")


def test_environment_variables_are_listed():
    files = (ROOT / "thalweg").rglob("*.py")
    named = {
        name for file in files for name in re.findall(r"THALWEG_[A-Z_]+", file.read_text(encoding="utf-8"))
    }
    assert named == {*re.findall(r"THALWEG_[A-Z_]+", TEXT)}
