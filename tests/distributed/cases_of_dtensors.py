"""Cases of the bits of a step. The oracle is a step of one process on whole tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from pairs import (
    SHAPES,
    Pair,
    assert_replicas_agree,
    batches,
    draw,
    dtensor,
    meshes,
    on_meshes,
    whole,
)
from processes import case
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import thalweg as tw

RULES = (
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Lion", {}),
)


@case()
def every_rule_has_the_bits_of_one_process():
    for (mesh, placements), (name, options) in on_meshes(RULES):
        pair = Pair(lambda params, n=name, o=options: getattr(tw, n)(params, lr=0.01, **o), mesh, placements)
        pair.step(3)
        pair.assert_alike(name)
        assert batches(pair.optimizer) == {"DenseBatch"}
        assert_replicas_agree(pair.params)


@case()
def rounded_state_and_weights_have_the_bits_of_one_process():
    shapes = [shape for shape in SHAPES if shape != (66, 65)]
    ways = [{"state": "bfloat16"}, {"state": "int8"}, {"state": {"exp_avg": "int8"}, "weight_bits": 16}]
    ways += [
        {"state": "block8"},
        {"weight_bits": 24, "state": "bfloat16"},
        {"weight_bits": 32, "state": "int8"},
        {"weight_bits": 16},
    ]
    for (mesh, placements), options in on_meshes(ways):
        half = "weight_bits" in options
        # Cut along their columns, rows of a block are no whole ones.
        cut = any(not p.is_replicate() and p.dim for p in placements)
        own = [(64, 64 * dist.get_world_size()), *shapes[1:]] if cut else shapes
        pair = Pair(
            lambda params, o=options: tw.AdamW(params, lr=0.01, seed=3, **o),
            *(mesh, placements, own, torch.bfloat16 if half else torch.float32),
        )
        pair.step(3)
        pair.assert_alike(options)
        assert batches(pair.optimizer) == {"DenseBatch"}
        assert_replicas_agree(pair.params)


@case()
def random_words_go_by_the_place_in_the_whole():
    for mesh, placements in meshes():
        for options in ({"state": "bfloat16"}, {"weight_bits": 16}):
            dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
            pair = Pair(
                lambda params, o=options: tw.AdamW(params, lr=0.01, **o),
                *(mesh, placements, [(66, 65), (33, 7, 19), (4099,)], dtype),
            )
            pair.step(3)
            pair.assert_alike(options)


@case()
def blocks_that_would_be_cut_are_bfloat16_on_any_mesh():
    count = dist.get_world_size()
    alone = DeviceMesh("cpu", [dist.get_rank()], _init_backend=False)
    for shape in ((66, 65), (4099,), (64, 3, 7, 7)):
        for mesh in (init_device_mesh("cpu", (count,)), alone):
            for placement in (Shard(0), Replicate()):
                pair = Pair(
                    lambda params: tw.AdamW(params, lr=0.01, state="int8"), mesh, [placement], [shape]
                )
                pair.oracle = tw.AdamW(pair.plain, lr=0.01, state="bfloat16")
                pair.step(2)
                pair.assert_alike(shape)


@case()
def gradients_are_brought_to_the_placements_of_their_parameters():
    for mesh, placements in meshes():
        pair = Pair(lambda params: tw.AdamW(params, lr=0.01, max_norm=1.0), mesh, placements)
        for times in range(4):
            pair.give()
            for param in pair.params:
                last = [Replicate()] * (mesh.ndim - 1)
                # Summands that are exact, so that their sum has the bits of the whole.
                grad = param.grad.full_tensor() if times % 2 else param.grad.full_tensor() / mesh.size(-1)
                other = [*last, Replicate() if times % 2 else Partial()]
                param.grad = DTensor.from_local(grad, mesh, other, shape=grad.shape, stride=grad.stride())
            pair.optimizer.step()
            pair.oracle.step()
        for param, plain in zip(pair.params, pair.plain, strict=True):
            assert param.grad.placements == param.placements
            torch.testing.assert_close(whole(param), plain)
        assert (
            len(pair.optimizer._stepper._planner._plans) <= 2
        )  # parts of what was repeated are not contiguous


@case(4)
def gradients_of_any_strides_and_dtypes():
    for mesh, placements in meshes():
        pair = Pair(
            lambda params: tw.AdamW(params, lr=0.01, weight_bits=16),
            mesh,
            placements,
            [(66, 65)],
            torch.bfloat16,
        )
        for strided in (False, True, True, False):
            pair.give()
            (param,), (plain,) = pair.params, pair.plain
            if strided:
                local = param.grad.to_local()
                param.grad = dtensor(local.t().contiguous().t(), param.grad)
            pair.optimizer.step()
            pair.oracle.step()
            pair.assert_alike(strided)
        # What backward of a sum makes: one number for many elements.
        param.grad = dtensor(torch.ones(()).bfloat16().expand(param.to_local().shape), param.grad)
        plain.grad = torch.ones((66, 65), dtype=torch.bfloat16)
        pair.optimizer.step()
        pair.oracle.step()
        pair.assert_alike("expanded")


@case(4)
def parameters_whose_memory_has_another_order():
    line = meshes()[0][0]
    for placement in (Shard(0), Shard(1)):
        for options in ({}, {"state": "bfloat16"}):
            value, grads = draw([(96, 65)], 0)[0].t(), [grad.t() for grad in draw([(96, 65)] * 3, 1)]
            (param, plain) = (
                nn.Parameter(distribute_tensor(value, line, [placement])),
                nn.Parameter(value.clone()),
            )
            ours, oracle = (tw.AdamW([p], lr=0.01, **options) for p in (param, plain))
            for grad in grads:
                param.grad, plain.grad = distribute_tensor(grad, line, [placement]), grad.clone()
                ours.step()
                oracle.step()
            assert param.stride() == plain.stride() == ours.state[param]["exp_avg"].stride()
            # The reference steps what is drawn for here, without fused products.
            torch.testing.assert_close(whole(param), plain.detach(), rtol=1e-5, atol=1e-5)


@case()
def dtensors_and_plain_tensors_in_one_optimizer():
    mesh, placements = meshes()[0]
    pair = Pair(
        lambda params: tw.AdamW(params, lr=0.01, state="int8", max_norm=0.5), mesh, placements, [(130, 64)]
    )
    more = [nn.Parameter(value) for value in draw([(70, 64), (5,)], 9)]
    others = [nn.Parameter(value.detach().clone()) for value in more]
    for optimizer, params in ((pair.optimizer, more), (pair.oracle, others)):
        optimizer.add_param_group({"params": params, "lr": 0.02})
    for seed in range(3):
        for param, other, grad in zip(more, others, draw([(70, 64), (5,)], 20 + seed), strict=True):
            param.grad, other.grad = grad, grad.clone()
        pair.step()
    pair.assert_alike()
    for param, other in zip(more, others, strict=True):
        assert torch.equal(param, other)


@case()
def gradients_may_be_missing():
    for mesh, placements in meshes():
        pair = Pair(lambda params: tw.AdamW(params, lr=0.01, state="bfloat16"), mesh, placements)
        for missing in ((), (0, 2), (1,), (), (0, 1, 2, 3)):
            pair.give()
            for i in missing:
                pair.params[i].grad = pair.plain[i].grad = None
            pair.optimizer.step()
            pair.oracle.step()
        pair.assert_alike()
