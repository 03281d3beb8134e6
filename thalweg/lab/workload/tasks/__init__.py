"""A user's own workload: found in a plain Python file, checked, tried out, its errors told in its own terms.

`load` finds it, `check` looks at its attributes, `smoke` trains it for one batch, `explain` says where in the
user's file an error arose, `told` the same of any workload.
"""

from thalweg.lab.workload.tasks.around import (
    alone,
    command_line,
    folder_of,
    make_importable,
    put_own_first,
)
from thalweg.lab.workload.tasks.checking import check
from thalweg.lab.workload.tasks.errors import TaskError, explain, shown, told
from thalweg.lab.workload.tasks.finding import (
    imported,
    is_file,
    listed_modules,
    load,
    neighbours,
    parse,
    program_of,
)
from thalweg.lab.workload.tasks.trying import measured, smoke

__all__ = [
    "TaskError",
    "alone",
    "check",
    "command_line",
    "explain",
    "folder_of",
    "imported",
    "is_file",
    "listed_modules",
    "load",
    "make_importable",
    "measured",
    "neighbours",
    "parse",
    "program_of",
    "put_own_first",
    "shown",
    "smoke",
    "told",
]
