"""The lab: measures which optimizer a model wants, and how to set it.

Read the rooms in this order:

- `spaces`: each optimizer with its hyperparameters and their ranges; the quasi-random points.
- `workload`: what is trained: the contract, the workloads that ship, a user's own, the template of one.
- `study`: what is to be run: runs and their records, a comparison as data, the protocol.
- `running`: how it is run: one run, the processes that train, the storage of records, the loop over both.
- `judging`: what may be said: intervals, ranking, differences, what else the records tell, the verdict.
- `showing`: how it is shown: figures, the report, JSON, the terminal, the result for notebooks.
- `memory`: bytes of training, counted and shown, from Python and from the command line.
- `simulating`: the protocol on made-up results, to see how often it says what is false.
- `comparing`: a whole comparison, from Python and from the command line; what a time budget buys.
- `sweeping`: what becomes of training as a hyperparameter is moved: the learning rate within a
  run, others from run to run.

`landscape` is how the loss lies around weights: functions of parameters and a loss, which stand alone.
Nothing here is imported by `import thalweg`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg.lab.workload import errors

if TYPE_CHECKING:
    from thalweg.lab.comparing.api import compare
    from thalweg.lab.showing.result import Result
    from thalweg.lab.spaces import Axis, Recipe, Space, Together
    from thalweg.lab.sweeping.rate.api import rate
    from thalweg.lab.sweeping.rate.own import find_rate
    from thalweg.lab.sweeping.sensitivity.api import sensitivity
    from thalweg.lab.workload import Evaluation, Run, Split, Workload, device_of, tasks
    from thalweg.lab.workload.errors import StoreError, TrialError, WorkerDiedError

_PUBLIC = {
    "Axis": "spaces",
    "Evaluation": "workload",
    "Recipe": "spaces",
    "Result": "showing.result",
    "Run": "workload",
    "Space": "spaces",
    "Split": "workload",
    "StoreError": "workload.errors",
    "Together": "spaces",
    "TrialError": "workload.errors",
    "WorkerDiedError": "workload.errors",
    "Workload": "workload",
    "compare": "comparing.api",
    "device_of": "workload",
    "find_rate": "sweeping.rate.own",
    "rate": "sweeping.rate.api",
    "sensitivity": "sweeping.sensitivity.api",
    "tasks": "workload.tasks",
}
"""Where each name lies; `tasks` is the module itself."""

__all__ = [
    "Axis",
    "Evaluation",
    "Recipe",
    "Result",
    "Run",
    "Space",
    "Split",
    "StoreError",
    "Together",
    "TrialError",
    "WorkerDiedError",
    "Workload",
    "compare",
    "device_of",
    "find_rate",
    "rate",
    "sensitivity",
    "tasks",
]


sys.modules[f"{__name__}.errors"] = errors  # where version 0.1 had them: scripts and pickles name the module


def __getattr__(name: str) -> Any:
    # Looked up when asked for: a training process needs none of the report's or the storage's packages.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'thalweg.lab' has no attribute {name!r}")
    module = import_module(f"thalweg.lab.{_PUBLIC[name]}")
    return module if name == "tasks" else getattr(module, name)
