"""DTensors: FSDP2, tensor parallel, meshes of one and two dimensions, with 2 and 4 processes over gloo."""

from __future__ import annotations

import cases_of_checkpoints  # noqa: F401 - which notes its cases
import cases_of_dtensors  # noqa: F401
import cases_of_measures  # noqa: F401
import cases_of_state_dicts  # noqa: F401
import cases_of_sums  # noqa: F401
import cases_of_training  # noqa: F401
import cases_of_wrappers  # noqa: F401
import processes
import pytest


@pytest.mark.parametrize("count", [2, 4])
def test_in_processes(count):
    assert len(processes.names(count)) > 15
    said = processes.failures(count)
    assert not said, "\n".join(f"{name} {text}" for name, text in said.items())
