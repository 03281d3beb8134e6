"""The lab: measures which optimizer a model wants, and how to set it.

Read the modules in this order:

- `workload`: what is trained, as a contract; `workloads`: those that ship with the package; `tasks`: a
  user's own, from a file.
- `spaces`: each optimizer with its hyperparameters and their ranges; `search`: the quasi-random points.
- `record`, `trial`: what one training run is, and the run.
- `study`, `protocol`: a comparison as data, and the rules by which it goes on.
- `store`, `pool`, `execution`: where records are kept, the processes that train, the loop over both.
- `budget`: what a time budget buys.
- `statistics`, `measures`: intervals, ranking, differences; what else the records tell.
- `verdict`, `wording`, `quantities`: what the numbers allow one to say, and how it is said.
- `results`, `findings`, `figures`, `report`, `result`, `console`: what is written and shown.
- `comparison`: all of it in a row; `api`, `command`: for Python and for the command line.
- `memory`, `memory_command`: bytes of training, from Python and from the command line; `optimizers`,
  `models`: how a user names what is counted.

Nothing here is imported by `import thalweg`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.lab.api import compare
    from thalweg.lab.result import Result
    from thalweg.lab.spaces import Axis, Space
    from thalweg.lab.workload import Evaluation, Split, Workload, device_of

_PUBLIC = {
    "Axis": "spaces",
    "Evaluation": "workload",
    "Result": "result",
    "Space": "spaces",
    "Split": "workload",
    "Workload": "workload",
    "compare": "api",
    "device_of": "workload",
}

__all__ = ["Axis", "Evaluation", "Result", "Space", "Split", "Workload", "compare", "device_of"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: a training process needs none of the report's or the storage's packages.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'thalweg.lab' has no attribute {name!r}")
    return getattr(import_module(f"thalweg.lab.{_PUBLIC[name]}"), name)
