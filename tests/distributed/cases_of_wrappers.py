"""Cases of what torch lays around a model: DDP, FSDP2's policies, pipelines, compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from pairs import batches, draw, model, whole
from processes import case
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import thalweg as tw

Net = Callable[[], nn.Module]
Around = Callable[[nn.Module, bool], AbstractContextManager[Any]]
"""Says what a backward pass is within, of which model, and whether it is the last one of its step."""


def nothing(net: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    return nullcontext()


def fsdp(dtype: torch.dtype = torch.float64, **options: Any) -> nn.Sequential:
    net = model(dtype)
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **options)
    return fully_shard(net, **options)


def train_apart(
    net: nn.Module, optimizer: torch.optim.Optimizer, around: Around = nothing, parts: int = 2, steps: int = 4
) -> None:
    """Train by inputs of each process's own."""
    dtype = next(net.parameters()).dtype
    for step in range(steps):
        for part in range(parts):
            (inputs,) = draw([(6, 7)], 100 * step + 10 * part + dist.get_rank(), dtype)
            with around(net, part == parts - 1):
                net(inputs).to(dtype).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=bool(step % 2))


def assert_weights_alike(one: nn.Module, other: nn.Module, said: Any, rtol: float = 1e-12) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        a, b = whole(a).detach(), whole(b).detach()
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol / 100, msg=lambda text: f"{said}: {text}")


def trains_as_torchs_does(made: Net, said: Any, around: Around = nothing) -> None:
    one, other = made(), made()
    ours = tw.AdamW(one.parameters(), lr=0.01)
    train_apart(one, ours, around)
    train_apart(other, torch.optim.AdamW(other.parameters(), lr=0.01), around)
    assert_weights_alike(one, other, said)
    assert batches(ours) == {"DenseBatch"}


@case(2)
def ddp_trains_as_torch_does():
    def unsynchronized(net: Any, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else net.no_sync()

    for options in ({}, {"static_graph": True}, {"gradient_as_bucket_view": True}):
        # torch's reducer does not take no_sync() with a static graph, whatever the optimizer.
        for around in (nothing,) if "static_graph" in options else (nothing, unsynchronized):
            trains_as_torchs_does(
                lambda o=options: DistributedDataParallel(model(torch.float64), **o),
                *((options, around.__name__), around),
            )


@case(2)
def replicas_of_ddp_have_the_same_bits():
    for options in ({"state": "int8"}, {"weight_bits": 24, "state": "bfloat16"}, {"max_norm": 0.1}):
        dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
        net = DistributedDataParallel(model(dtype), gradient_as_bucket_view=True)
        train_apart(net, tw.AdamW(net.parameters(), lr=0.01, **options))
        for param in net.parameters():
            found = [torch.empty_like(param) for _ in range(2)]
            dist.all_gather(found, param.detach())
            assert torch.equal(*found), options


@case(2)
def fsdp2_with_policies_trains_as_torch_does():
    # Weights in float64 differ by too little for their casts to differ.
    ways: list[dict[str, Any]] = [
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)},
        {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)},
        {"offload_policy": CPUOffloadPolicy(pin_memory=False)},
        {"reshard_after_forward": False},
    ]
    for options in ways:
        trains_as_torchs_does(lambda o=options: fsdp(**o), options)


@case(2)
def fsdp2_accumulates_without_reducing():
    def unsynchronized(net: Any, is_last: bool) -> AbstractContextManager[Any]:
        net.set_requires_gradient_sync(is_last)
        return nullcontext()

    trains_as_torchs_does(fsdp, "unsynchronized", unsynchronized)


# --- steps in backward ---


@case(2)
def steps_in_backward_are_those_after_it():
    """Of gradients that are reduced within the backward pass: FSDP2 calls the hooks from a function of it."""
    ways: tuple[Net, ...] = (fsdp, lambda: fully_shard(model(torch.float64)), tensor_parallel)
    for made in ways:
        for hold in (None, 0):
            for parts in (1, 2):
                one, other = made(), made()
                ours, plain = (tw.AdamW(net.parameters(), lr=0.01) for net in (one, other))
                ours.in_backward(hold=hold, every=parts)
                train_apart(one, ours, parts=parts)
                assert all(param.grad is None for param in one.parameters())
                train_apart(other, plain, parts=parts)
                assert_weights_alike(one, other, (made, hold, parts), rtol=0)


@case(2)
def rounded_steps_in_backward_have_the_same_bits():
    for options in ({"state": "int8"}, {"weight_bits": 24}):
        dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
        one, other = fsdp(dtype), fsdp(dtype)
        ours, plain = (tw.AdamW(net.parameters(), lr=0.01, **options) for net in (one, other))
        ours.in_backward(hold=0)
        train_apart(one, ours, parts=1)
        train_apart(other, plain, parts=1)
        assert_weights_alike(one, other, options, rtol=0)


@case(2)
def steps_in_backward_wait_for_what_is_accumulated():
    for by_fsdp in (True, False):
        one, other = fsdp(), fsdp()
        ours, plain = (tw.AdamW(net.parameters(), lr=0.01) for net in (one, other))
        handle = ours.in_backward(hold=0)

        def around(net: Any, is_last: bool, by_fsdp=by_fsdp, one=one, handle=handle) -> Any:
            if by_fsdp:
                net.set_requires_gradient_sync(is_last)
            return handle.accumulating() if net is one and not (by_fsdp or is_last) else nullcontext()

        train_apart(one, ours, around)
        train_apart(other, plain, around)
        assert_weights_alike(one, other, by_fsdp)


@case(2)
def steps_in_backward_are_clipped_by_the_last_norm():
    one, other = fsdp(), fsdp()
    ours = tw.SGD(one.parameters(), lr=0.1, max_norm=0.05)
    ours.in_backward(clip_by_last_norm=True)  # all is held until the end, so this pass's norm is known too
    last = torch.zeros((), dtype=torch.float64)
    for step in range(4):
        (inputs,) = draw([(6, 7)], 10 * step + dist.get_rank(), torch.float64)
        inputs = inputs / (1 + step)
        for net in (one, other):
            net(inputs).square().mean().backward()
        norm = whole(nn.utils.get_total_norm([param.grad for param in other.parameters()]))
        factor = (0.05 / (torch.maximum(norm, last) + 1e-6)).clamp(max=1.0)
        assert factor < 1
        with torch.no_grad():
            for param in other.parameters():
                param.to_local().sub_(0.1 * factor * param.grad.to_local())
                param.grad = None
        last = norm
        assert_weights_alike(one, other, step, rtol=1e-6)


def tensor_parallel() -> nn.Module:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


# --- pipelines and compiled functions ---


def pipeline(optimizer: Any, schedule: Any, stage: Any) -> nn.Module:
    """Train two stages, one in each process, and return that of this one."""
    torch.manual_seed(0)
    rank = dist.get_rank()
    net = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double() for _ in range(2)][rank]
    turns = schedule(stage(net, rank, 2, torch.device("cpu")), n_microbatches=4, loss_fn=nn.MSELoss())
    steps = optimizer(net.parameters(), lr=0.01)
    for step in range(4):
        inputs, target = draw([(8, 8), (8, 8)], step, torch.float64)
        losses: list[Tensor] = []
        turns.step(*[inputs] * (rank == 0), **({"target": target, "losses": losses} if rank else {}))
        steps.step()
        steps.zero_grad()
    return net


@case(2)
def stages_of_pipelines_train_as_with_torch():
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    for schedule in (ScheduleGPipe, Schedule1F1B):
        nets = (pipeline(kind, schedule, PipelineStage) for kind in (tw.AdamW, torch.optim.AdamW))
        assert_weights_alike(*nets, said=schedule)


@case(2, is_slow=True)
def compiled_models_train_as_with_torch():
    ways: tuple[Net, ...] = (fsdp, lambda: DistributedDataParallel(model(torch.float64)))
    for made in ways:
        trains_as_torchs_does(lambda made=made: torch.compile(made(), backend="aot_eager"), "aot_eager")
        torch._dynamo.reset()
