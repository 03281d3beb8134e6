"""Every algorithm on a GPU: as torch computes it in float64, and as our own kernels do on the CPU."""

from __future__ import annotations

import pytest
import torch
from configurations import CONFIGURATIONS
from devices import host_kernels
from runs import assert_equal, run, start
from support import (
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    gradients,
    label,
    leaf,
    oracle,
    ours,
)

from thalweg.storage.choices import CORRECTION, WEIGHT_BITS

WITH_STATE = [one for one in ONE_EACH if one != ("SGD", {"lr": 0.1})] + [("Lion", {"lr": 0.01})]
with_state = pytest.mark.parametrize("configuration", WITH_STATE, ids=label)
one_each = pytest.mark.parametrize("configuration", [*ONE_EACH, ("Lion", {"lr": 0.01})], ids=label)
FEW = ((4096,), (1030,), (30,), ())


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=label)
def test_float64_is_torchs(configuration, device):
    mine = start(device, torch.float64, ((1030,), (5, 4), ()))
    theirs = [leaf(p.detach().cpu()) for p in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    steps = gradients(theirs, 5)
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
def test_a_step_of_fewer_bits_is_torchs_in_float64_rounded(configuration, dtype, device):
    mine = start(device, dtype, ((1030,), (5, 4), ()))
    theirs = [leaf(p.detach().cpu(), torch.float64) for p in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    grads = [g.to(dtype) for g in gradients(theirs, 1)[0]]
    follow(a, mine, [grads])
    follow(b, theirs, [grads])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p.double(), q, rtol=1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@one_each
def test_the_devices_kernels_are_the_hosts(configuration, dtype, device):
    with host_kernels() as host:
        expected = run(configuration, host, dtype=dtype, shapes=FEW)
    params, optimizer = run(configuration, device, dtype=dtype, shapes=FEW)
    rtol = 20 * torch.finfo(dtype).eps
    for p, q in zip(params, expected[0], strict=True):
        assert_close(p, q, rtol)
        assert optimizer.state[p].keys() == expected[1].state[q].keys()
        for name, value in expected[1].state[q].items():
            assert_close(optimizer.state[p][name], value, rtol)


@pytest.mark.parametrize("weight_bits", WEIGHT_BITS)
@pytest.mark.parametrize("state", ["int8", "bfloat16"])
@with_state
def test_stored_in_fewer_bytes_the_devices_kernels_are_the_hosts(configuration, state, weight_bits, device):
    dtype = torch.float32 if weight_bits is None else torch.bfloat16
    storage = {"state": state, "weight_bits": weight_bits, "dtype": dtype, "steps": 1, "shapes": FEW}
    with host_kernels() as host:
        others, other = run(configuration, host, **storage)
    params, one = run(configuration, device, **storage)
    for p, q in zip(params, others, strict=True):
        assert one.state[p].keys() == other.state[q].keys()
        for name in one.state[p].keys() - {CORRECTION}:
            value, expected = one.state[p][name].cpu(), other.state[q][name]
            assert value.dtype == expected.dtype
            # What is rounded once by a fused multiply-add, and twice without, may fall to either side of
            # the edge between two codes.
            differ = (value != expected).float().mean()
            assert value.dtype == torch.float32 or differ < 0.003, name
        torch.testing.assert_close(p.cpu(), q, rtol=2**-7, atol=1e-6)
    rtol = {None: 1e-5, 16: 2**-7, 24: 2**-14, 32: 1e-5}[weight_bits]
    weights, expected = one.full_precision_weights(), other.full_precision_weights()
    for key, value in weights.items():
        torch.testing.assert_close(value.cpu(), expected[key], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("weight_bits", WEIGHT_BITS)
@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_where_arithmetic_is_exact_the_codes_are_equal(state, weight_bits, device):
    # Momentum 1/2 and halves of integers: nothing is rounded but by the codecs.
    def several_steps(place):
        params = start(place, torch.bfloat16)
        options = {"lr": 0.5, "momentum": 0.5, "state": state, "weight_bits": weight_bits, "seed": 5}
        optimizer = ours(("SGD", options), params)
        for grads in gradients([p.float() for p in params], 4):
            follow(optimizer, params, [[(4 * g).round() / 2 for g in grads]])
        return params, optimizer

    with host_kernels() as host:
        expected = several_steps(host)
    assert_equal(several_steps(device), expected)


@pytest.mark.parametrize(
    "storage", [{}, {"state": "int8"}, {"state": "bfloat16"}, {"state": "int8", "weight_bits": 24}], ids=str
)
@with_state
def test_two_runs_are_equal_in_every_bit(configuration, storage, device):
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    runs = [run(configuration, device, steps=2, dtype=dtype, shapes=FEW, **storage) for _ in range(2)]
    assert_equal(*runs)
