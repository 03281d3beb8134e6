"""A user's own workload: found in a plain Python file, checked, tried out, its errors told in its own terms.

`load` finds it, `check` looks at its attributes, `smoke` trains it for one batch, `explain` says where in the
user's file an error arose.
"""

from thalweg.lab.tasks.checking import check
from thalweg.lab.tasks.errors import TaskError, explain, shown
from thalweg.lab.tasks.finding import imported, is_file, load, make_importable, parse
from thalweg.lab.tasks.trying import smoke

__all__ = [
    "TaskError",
    "check",
    "explain",
    "imported",
    "is_file",
    "load",
    "make_importable",
    "parse",
    "shown",
    "smoke",
]
