"""Cases of state: made without a step, saved and loaded on as many and on fewer processes, and torch's."""

from __future__ import annotations

import copy
import itertools
import shutil
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pairs import Pair, assert_same, draw, meshes, placed, sharded, train, whole
from processes import case
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import thalweg as tw

STORED = ({}, {"state": "bfloat16"}, {"state": "int8"}, {"state": "block8"})


def shared_folder() -> str:
    folder: list[Any] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder, 0)
    return folder[0]


@case(4)
def state_is_made_without_a_step():
    mesh, placements = meshes()[0]
    ways = [
        ("AdamW", {"state": "int8"}),
        ("SGD", {"momentum": 0.9, "dampening": 0.5}),
        ("Prodigy", {"lr": 1.0}),
    ]
    for name, options in ways:
        one, other = (
            Pair(
                lambda params, n=name, o=options: getattr(tw, n)(params, **{"lr": 0.01, **o}),
                mesh,
                placements,
            )
            for _ in range(2)
        )
        one.optimizer.init_state()
        for param in one.params:
            assert not float(one.optimizer.state[param].get("step", 0))
        before = {id(v) for own in one.optimizer.state.values() for v in own.values()}
        one.step(2)
        other.step(2)
        for a, b in zip(one.params, other.params, strict=True):
            assert_same(a, b, name)
            for key, value in other.optimizer.state[b].items():
                assert_same(one.optimizer.state[a][key], value, (name, key))
                assert id(one.optimizer.state[a][key]) in before


@case(4)
def torchs_priming_is_no_step():
    for options in STORED:
        nets = [sharded(), sharded()]
        ours = [tw.AdamW(net.parameters(), lr=0.01, **options) for net in nets]
        weights = [whole(param).clone() for param in nets[0].parameters()]
        get_optimizer_state_dict(nets[0], ours[0])
        assert all(not float(own["step"]) for own in ours[0].state.values())
        for param, value in zip(nets[0].parameters(), weights, strict=True):
            assert torch.equal(whole(param), value)
        for net, optimizer in zip(nets, ours, strict=True):
            train(net, optimizer, 3)
        assert_twins(nets, ours, options)


@case()
def a_first_step_with_a_learning_rate_of_zero_is_a_step():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.0), mesh, placements)
    pair.step()
    pair.assert_alike()
    assert float(pair.optimizer.state[pair.params[0]]["step"]) == 1
    # Zero in all processes but one, one of which has nothing of the parameter.
    (param,) = (nn.Parameter(placed(torch.ones(1, 64), mesh, [Shard(0)])) for _ in range(1))
    optimizer = tw.AdamW([param], lr=0.0)
    param.grad = placed(torch.ones(1, 64), mesh, [Shard(0)])
    optimizer.step()
    assert float(optimizer.state[param]["step"]) == 1


def assert_twins(nets: Any, optimizers: Any, said: Any) -> None:
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert_same(a, b, said)
        one, other = optimizers[0].state[a], optimizers[1].state[b]
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name], (said, name))


def wide(mesh: DeviceMesh | None = None) -> nn.Module:
    """A model whose state is stored in blocks, in bfloat16 in their place, and in full, on any mesh."""
    torch.manual_seed(0)
    return fully_shard(
        nn.Sequential(nn.Linear(64, 67), nn.Tanh(), nn.Linear(67, 65), nn.Linear(65, 3)), mesh=mesh
    )


def train_wide(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        net(draw([(6, 64)], step)[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def wholes(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: whole(value).clone() for name, value in own.items()} for own in optimizer.state.values()]


@case()
def checkpoints_go_from_mesh_to_mesh():
    count, rank = dist.get_world_size(), dist.get_rank()
    folder = shared_folder()
    fewer = {n: DeviceMesh("cpu", list(range(n))) for n in range(1, count)}
    for number, options in enumerate(STORED):
        net = wide()
        ours = tw.AdamW(net.parameters(), lr=0.01, **options)
        train_wide(net, ours, 3)
        expected = wholes(ours)
        path = f"{folder}/{number}"
        dcp.save({"o": get_optimizer_state_dict(net, ours)}, checkpoint_id=path)
        for n, mesh in fewer.items():
            if rank < n:
                other = wide(mesh)
                theirs = tw.AdamW(other.parameters(), lr=0.5, **options)
                load(other, theirs, path, mesh)
                assert theirs.param_groups[0]["lr"] == 0.01
                for own, known in zip(wholes(theirs), expected, strict=True):
                    for name, value in known.items():
                        assert_same(own[name], value, (n, options, name))
                state = {"o": get_optimizer_state_dict(other, theirs)}
                dcp.save(state, checkpoint_id=f"{path}/{n}", process_group=mesh.get_group())
            dist.barrier()
            back = wide()
            again = tw.AdamW(back.parameters(), lr=0.5, **options)
            load(back, again, f"{path}/{n}")
            with torch.no_grad():
                for param, value in zip(back.parameters(), net.parameters(), strict=True):
                    param.copy_(value)
            known = copy.deepcopy(ours.state_dict())
            for a, b in zip(wholes(again), expected, strict=True):
                for name, value in b.items():
                    assert_same(a[name], value, (n, options, name))
            if n == 1:
                train_wide(net, ours, 2, start=10)
                train_wide(back, again, 2, start=10)
                assert_twins((net, back), (ours, again), options)
                ours.load_state_dict(known)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder)


def load(net: nn.Module, optimizer: tw.Optimizer, path: str, mesh: DeviceMesh | None = None) -> None:
    state = {"o": get_optimizer_state_dict(net, optimizer)}
    dcp.load(state, checkpoint_id=path, process_group=None if mesh is None else mesh.get_group())
    set_optimizer_state_dict(net, optimizer, state["o"])


@case(4)
def checkpoints_of_torch_load_and_ours_into_torch():
    nets = [sharded(torch.float64) for _ in range(4)]
    theirs, ours, mine, back = (
        kind(net.parameters(), lr=0.01)
        for kind, net in zip((torch.optim.AdamW, tw.AdamW, tw.AdamW, torch.optim.AdamW), nets, strict=True)
    )
    for one, other, source, target in ((0, 1, theirs, ours), (2, 3, mine, back)):
        train(nets[one], source, 3)
        set_optimizer_state_dict(nets[other], target, get_optimizer_state_dict(nets[one], source))
        copied(target)
        with torch.no_grad():
            for a, b in zip(nets[other].parameters(), nets[one].parameters(), strict=True):
                a.copy_(b)
        train(nets[one], source, 3, start=3)
        train(nets[other], target, 3, start=3)
        for a, b in zip(nets[other].parameters(), nets[one].parameters(), strict=True):
            torch.testing.assert_close(whole(a), whole(b), rtol=1e-12, atol=1e-14)


def copied(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give an optimizer state of its own, which a checkpoint that was not saved shares with another one."""
    for own in optimizer.state.values():
        own.update({name: value.clone() for name, value in own.items()})
    return optimizer


@case(4)
def state_of_whole_parameters_is_cut():
    for (mesh, placements), options in itertools.product(meshes(), STORED):
        pair = Pair(
            lambda params, o=options: tw.AdamW(params, lr=0.01, **o),
            *(mesh, placements, [(130, 64), (4, 256), (7, 3)]),
        )
        is_in_blocks = options.get("state", "bfloat16") != "bfloat16"
        if is_in_blocks and any(not p.is_replicate() and p.dim for p in placements):
            continue
        pair.give()
        pair.oracle.step()
        with torch.no_grad():
            for param, plain in zip(pair.params, pair.plain, strict=True):
                param.copy_(placed(plain.detach(), param.device_mesh, param.placements))
        pair.optimizer.load_state_dict(copy.deepcopy(pair.oracle.state_dict()))
        pair.step()
        pair.assert_alike(options)


@case()
def codes_whose_blocks_are_cut_here_are_read_once():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.01, state="int8"), mesh, placements, [(66, 65)])
    pair.give()
    pair.oracle.step()
    saved = copy.deepcopy(pair.oracle.state_dict())
    pair.optimizer.load_state_dict(saved)
    (param,) = pair.params
    expected = pair.oracle.full_precision_state_dict()["state"][0]["exp_avg"]
    pair.step()
    assert pair.optimizer.state[param]["exp_avg"].dtype == torch.bfloat16
    loaded = tw.AdamW(pair.params, lr=0.01, state="int8")
    loaded.load_state_dict(saved)
    loaded.init_state()
    assert_same(loaded.state[param]["exp_avg"], expected.bfloat16(), "read once")


@case(4)
def full_precision_is_of_dtensors_too():
    mesh, placements = meshes()[0]
    for bits in (16, 24, 32):
        pair = Pair(
            lambda params, b=bits: tw.AdamW(params, lr=0.01, weight_bits=b, state="int8"),
            *(mesh, placements, [(130, 64), (7, 3)], torch.bfloat16),
        )
        pair.step(2)
        states = [one.full_precision_state_dict()["state"] for one in (pair.optimizer, pair.oracle)]
        for key, own in states[1].items():
            for name, value in own.items():
                assert_same(states[0][key][name], value, (bits, name))
        weights, others = (one.full_precision_weights() for one in (pair.optimizer, pair.oracle))
        for key, value in others.items():
            assert isinstance(weights[key], DTensor)
            assert weights[key].dtype == torch.float32
            assert_same(weights[key], value, (bits, key))
        pair.optimizer.load_full_precision_weights({key: value + 1 for key, value in weights.items()})
        pair.oracle.load_full_precision_weights({key: value + 1 for key, value in others.items()})
        pair.assert_alike(bits)
        pair.optimizer.load_full_precision_weights(others)  # whole, and cut
        pair.oracle.load_full_precision_weights(others)
        pair.assert_alike(bits)


@case(4)
def averages_of_dtensors():
    mesh, placements = meshes()[0]
    for options in (
        {"average": 0.9},
        {"average": 0.9, "average_state": "bfloat16"},
        {"schedule_free": 0.9, "betas": (0.0, 0.999)},
    ):
        pair = Pair(lambda params, o=options: tw.AdamW(params, lr=0.01, **o), mesh, placements)
        pair.step(3)
        pair.assert_alike(options)
        ours, theirs = (one.averaged_weights() for one in (pair.optimizer, pair.oracle))
        for key, value in theirs.items():
            torch.testing.assert_close(whole(ours[key]), value, rtol=1e-6, atol=1e-7)
        with pair.optimizer.averaged():
            torch.testing.assert_close(whole(pair.params[0]), theirs[0], rtol=1e-6, atol=1e-7)
        pair.assert_alike(options)


@case(2)
def steps_on_the_host_are_refused():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params), mesh, placements, [(8, 64), (5,)])
    with pytest.raises(ValueError, match=r"takes plain tensors; .* of shape \(8, 64\) is a DTensor"):
        pair.optimizer.offload(from_cpu=True)
    assert pair.optimizer._offload is None


@case(2)
def means_are_refused():
    mesh, placements = meshes()[0]
    with pytest.raises(ValueError, match="rowwise=True is not for DTensors"):
        Pair(lambda params: tw.Adagrad(params, rowwise=True), mesh, placements)
    for per in ("row", "column", "tensor"):
        state = {"exp_avg_sq": per}
        pair = Pair(lambda params, state=state: tw.AdamW(params, state=state), mesh, placements)
        with pytest.raises(ValueError, match=rf"state\['exp_avg_sq'\]='{per}' is not for DTensors"):
            pair.step(1)
