"""Processes over gloo that go through many cases: starting them takes longer than any case."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

PATIENCE = timedelta(seconds=20)
"""How long a process waits for another one, which may have failed."""

Case = Callable[[], None]
CASES: dict[str, tuple[frozenset[int], Case]] = {}
"""What processes go through, by name, and for how many of them."""


def case(*counts: int, is_slow: bool = False) -> Callable[[Case], Case]:
    """Has a function be called in all of 2, or of 4, processes; slow ones `THALWEG_TEST_DISTRIBUTED=all`."""

    def note(function: Case) -> Case:
        if is_slow and os.environ.get("THALWEG_TEST_DISTRIBUTED") != "all":
            return function
        CASES[function.__name__] = (frozenset(counts or (2, 4)), function)
        return function

    return note


def names(count: int) -> list[str]:
    """The cases for so many processes."""
    return [name for name, (counts, _) in CASES.items() if count in counts]


def failures(count: int) -> dict[str, str]:
    """Starts processes, and returns what each case has to say that failed, by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    found: dict[str, str] = {}
    try:
        mp.spawn(_go_through, (count, port, results), nprocs=count)
    except ProcessException as error:
        found = dict.fromkeys(names(count), f"a process ended: {error}\n")
    while not results.empty():
        name, said = results.get()
        found[name] = f"{found.get(name, '')}{said}"
    return found


def _go_through(rank: int, count: int, port: int, results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    import cases_of_checkpoints  # noqa: F401 - which notes its cases
    import cases_of_dtensors  # noqa: F401
    import cases_of_measures  # noqa: F401
    import cases_of_state_dicts  # noqa: F401
    import cases_of_sums  # noqa: F401
    import cases_of_training  # noqa: F401
    import cases_of_wrappers  # noqa: F401

    dist.init_process_group("gloo", rank=rank, world_size=count, timeout=PATIENCE)
    store = dist.distributed_c10d._get_default_store()
    for name in names(count):
        try:
            CASES[name][1]()
        except Exception:
            results.put((name, f"in process {rank}:\n{traceback.format_exc()}"))
        # Who has failed earlier than the others waits for them, and not in a collective.
        store.set(f"{name}/{rank}", "done")
        store.wait([f"{name}/{other}" for other in range(count)], 4 * PATIENCE)
    dist.destroy_process_group()
