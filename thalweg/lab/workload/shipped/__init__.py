"""The workloads that ship with the package, by name."""

from importlib import import_module
from pathlib import Path
from typing import Any

from thalweg.lab.workload.contract import Workload

WORKLOADS = {
    "digits": "thalweg.lab.workload.shipped.digits:Digits",
    "fashion-mnist": "thalweg.lab.workload.shipped.fashion_mnist:FashionMnist",
    "cifar10": "thalweg.lab.workload.shipped.cifar10:Cifar10",
    "text": "thalweg.lab.workload.shipped.text:Text",
    "speech": "thalweg.lab.workload.shipped.speech:Speech",
    "deep": "thalweg.lab.workload.shipped.deep:Deep",
    "quad": "thalweg.lab.workload.shipped.quad:Quad",
    "zipf": "thalweg.lab.workload.shipped.zipf:Zipf",
    "zipf-factors": "thalweg.lab.workload.shipped.zipf:ZipfFactors",
    "stream": "thalweg.lab.workload.shipped.stream:Stream",
    "series": "thalweg.lab.workload.shipped.series:Series",
    "ratings": "thalweg.lab.workload.shipped.ratings:Ratings",
    "rl": "thalweg.lab.workload.shipped.rl:CartPole",
}
"""Name to ``module:class``; a module is imported only when its workload is asked for."""

TAKES_DATA = ("fashion-mnist", "cifar10", "speech", "ratings")
"""The workloads whose data the user may point at."""


def find(name: str, data: Path | None = None) -> Workload:
    """The workload called `name`, with its data loaded.

    Args:
        name: a key of `WORKLOADS`.
        data: a file or folder with the data, in place of where they are looked for.

    Raises:
        ValueError: there is no such workload, the message lists those that exist; or it takes no `data`.
        thalweg.lab.workload.data.MissingDataError: its data are not there; the message says how to get
            them. It is a ValueError too.
    """
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}; choose from: {', '.join(WORKLOADS)}")
    if data is not None and name not in TAKES_DATA:
        raise ValueError(f"--data: workload {name!r} brings its own data")
    made = kind(name)
    workload: Workload = made() if data is None else made(data)
    return workload


def kind(name: str) -> Any:
    """The class of a workload that there is."""
    module, _, attribute = WORKLOADS[name].partition(":")
    return getattr(import_module(module), attribute)
