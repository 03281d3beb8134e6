"""The notebooks run from top to bottom; they are kept without outputs, which differ from day to day."""

from __future__ import annotations

import json
import warnings

import pytest
from pages import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "notebook"}
    with warnings.catch_warnings():
        for place, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                assert (cell["outputs"], cell["execution_count"]) == ([], None)
                exec(compile("".join(cell["source"]), f"{path.name}, cell {place}", "exec"), namespace)


def test_there_are_some():
    assert {path.stem for path in NOTEBOOKS} >= {
        "compare_on_your_own_task",
        "int8_and_an_average",
        "read_a_report",
    }
