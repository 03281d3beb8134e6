"""The workloads that ship with the package, by name."""

from importlib import import_module

from thalweg.lab.workload import Workload

WORKLOADS = {"digits": "thalweg.lab.workloads.digits:Digits"}
"""Name to ``module:class``; a module is imported only when its workload is asked for."""


def find(name: str) -> Workload:
    """The workload called `name`.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}; choose from: {', '.join(WORKLOADS)}")
    module, _, attribute = WORKLOADS[name].partition(":")
    workload: Workload = getattr(import_module(module), attribute)()
    return workload
