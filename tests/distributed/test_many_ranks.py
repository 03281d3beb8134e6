"""One of 512 processes: its collectives do nothing, so that only what it does itself is seen."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import thalweg as tw
from thalweg.distributed import sums

RANKS, COUNT, ROW = 512, 200, 64


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield init_device_mesh("cpu", (RANKS,))
    dist.destroy_process_group()


def pairs(mesh):
    """Parameters of a row for each process, and the rows that are here, with gradients."""
    whole, own = [], []
    for _ in range(COUNT):
        rows = [torch.randn(1, ROW) for _ in range(2)]
        cut = [
            DTensor.from_local(
                row.clone(),
                mesh,
                [Shard(0)],
                run_check=False,
                shape=torch.Size((RANKS, ROW)),
                stride=(ROW, 1),
            )
            for row in rows
        ]
        for found, (param, gradient) in ((whole, cut), (own, rows)):
            found.append(torch.nn.Parameter(param))
            found[-1].grad = gradient
    return whole, own


def test_a_process_steps_and_keeps_its_own_rows(mesh):
    whole, own = pairs(mesh)
    ours, plain = tw.AdamW(whole, lr=0.1), tw.AdamW(own, lr=0.1)
    for _ in range(2):
        ours.step()
        plain.step()
    for param, row in zip(whole, own, strict=True):
        assert torch.equal(param.to_local(), row)
        state = ours.state[param]
        assert sum(state[name].to_local().numel() for name in ("exp_avg", "exp_avg_sq")) == 2 * ROW


@pytest.mark.parametrize(("most", "times"), [(1 << 30, RANKS), (0, 2)])
def test_what_a_process_receives_for_measures(mesh, monkeypatch, most, times):
    received = []
    gather, exchange = dist.all_gather, dist.all_to_all_single
    monkeypatch.setattr(sums, "MOST_GATHERED_BYTES", most)

    def note_gathered(tensors, own, group):
        received.append(sum(tensor.nbytes for tensor in tensors))
        return gather(tensors, own, group=group)

    def note_exchanged(tensor, own, group):
        received.append(tensor.nbytes)
        return exchange(tensor, own, group=group)

    monkeypatch.setattr(dist, "all_gather", note_gathered)
    monkeypatch.setattr(dist, "all_to_all_single", note_exchanged)
    table = torch.ones(COUNT * 16, 1, dtype=torch.float64)
    sums.over_processes(table, [mesh.get_group()], torch.device("cpu"))
    whole = table.nbytes * times
    assert whole <= sum(received) <= whole + times * RANKS * 8, "no more than one number a process too many"


def test_by_default_what_is_large_is_shared_out():
    assert COUNT * RANKS * 8 < sums.MOST_GATHERED_BYTES < 100_000 * RANKS * 8
