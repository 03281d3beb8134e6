"""A run of several processes: the group that they are in, and what all of them must agree on.

The processes find each other as `torchrun` has them do: by its environment variables, and a store that
whoever has started them keeps. What decides how a run goes on must be the same in all of them, or one would
wait for ever in a collective that the others never come to.
"""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

HOST = "127.0.0.1"


class Seat(NamedTuple):
    """The place of a process in a run of several.

    Attributes:
        port: where the store listens, on this machine.
        run: tells the runs apart that use the store.
        rank: of the process.
        size: how many there are.
    """

    port: int
    run: int
    rank: int
    size: int


_NAMES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
)
"""What `torchrun` tells a process by its environment."""

_seat: Seat | None = None


def take(seat: Seat | None, device: torch.device) -> None:
    """Leaves the group of the run before, and joins the one of this run; None for a run of one process.

    Until all have answered one may still be waited for, so that a group is left when the next run begins.
    """
    global _seat
    if _seat is not None:
        _leave()
    if seat is not None:
        _join(seat, device)
    _seat = seat


def rank() -> int:
    """Of this process in its run; 0 in a run of one process."""
    return 0 if _seat is None else _seat.rank


def size() -> int:
    """How many processes share this run."""
    return 1 if _seat is None else _seat.size


def mean(value: float) -> float:
    """The mean over the processes; not finite where it is not in one of them."""
    if _seat is None:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / _seat.size


def of_first(values: Sequence[float]) -> list[float]:
    """What the first process has, in all."""
    if _seat is None:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(found, 0)
    return [float(value) for value in found]


def _join(seat: Seat, device: torch.device) -> None:
    said = (seat.rank, seat.rank, seat.size, seat.size, HOST, seat.port, True)
    os.environ.update(zip(_NAMES, map(str, said), strict=True))
    # All are on this machine, whatever name it has and whatever networks it is in.
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    store = dist.TCPStore(HOST, seat.port, is_master=False)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl",
        store=dist.PrefixStore(str(seat.run), store),
        rank=seat.rank,
        world_size=seat.size,
    )


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in _NAMES:
        os.environ.pop(name, None)
