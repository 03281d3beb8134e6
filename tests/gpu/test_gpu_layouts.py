"""Tensors as they come, on a GPU: strides, offsets, empty, sparse, complex."""

from __future__ import annotations

import pytest
import torch
from devices import launches
from support import (
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    give,
    gradients,
    label,
    leaf,
    oracle,
    ours,
    rand,
)

import thalweg as tw
from thalweg.lowering.gpu import tables as lowering

one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
STATES = pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])


def compare(configuration, mine, steps=3, form=lambda g: g):
    """Follow torch in float64 from the same values, which lie in plain order there."""
    theirs = [leaf(p.detach().cpu().contiguous()) for p in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for grads in gradients(theirs, steps):
        for p, g in zip(mine, grads, strict=True):
            p.grad = form(g.to(p.device, p.dtype))
        a.step()
        follow(b, theirs, [grads])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q)
    return a, b


@pytest.mark.parametrize("gradient", ["alike", "plain"])
@one_each
def test_channels_last(configuration, gradient, device):
    mine = [leaf(rand(4, 5, 6, 7).to(device).contiguous(memory_format=torch.channels_last))]
    memory_format = torch.channels_last if gradient == "alike" else torch.contiguous_format
    compare(configuration, mine, form=lambda g: g.contiguous(memory_format=memory_format))


@one_each
def test_turned_and_cut_out_parameters(configuration, device):
    turned = rand(40, 30).to(device).t().requires_grad_()
    cut = rand(80, 70).to(device)[::2, 1:60:3].requires_grad_()
    compare(configuration, [turned, cut])


@one_each
def test_gradients_of_any_strides(configuration, device):
    mine = [leaf(rand(40, 30).to(device))]

    def spread(g):
        wide = torch.zeros(40, 60, dtype=g.dtype, device=g.device)
        wide[:, ::2] = g
        return wide[:, ::2]

    compare(configuration, mine, form=spread)
    expanded = leaf(rand(40, 30).to(device))
    plain = leaf(expanded.detach())
    expanded.grad = torch.ones(1, 30, dtype=torch.float64, device=device).expand(40, 30)
    plain.grad = torch.ones(40, 30, dtype=torch.float64, device=device)
    for p in (expanded, plain):
        tw.AdamW([p], lr=0.1).step()
    assert torch.equal(expanded, plain)


def off_by_one(values):
    """Return the values where memory is aligned to nothing but an element."""
    base = torch.empty(values.numel() + 1, dtype=values.dtype, device=values.device)
    return base[1:].copy_(values.view(-1)).view(values.shape)


@pytest.mark.parametrize("weight_bits", [None, 24])
@pytest.mark.parametrize("what", ["parameter", "gradient", "both"])
@STATES
def test_memory_that_is_off_by_an_element(state, what, weight_bits, device):
    dtype = torch.float32 if weight_bits is None else torch.bfloat16
    values, grads = rand(64, 65).to(device, dtype), [rand(64, 65, seed=i).to(device, dtype) for i in (1, 2)]
    results = []
    for place in (lambda t: t.clone(), off_by_one):
        param = (place if what != "gradient" else torch.clone)(values).requires_grad_()
        optimizer = tw.AdamW([param], lr=0.1, state=state, weight_bits=weight_bits)
        for grad in grads:
            param.grad = (place if what != "parameter" else torch.clone)(grad)
            optimizer.step()
        results.append([param.detach(), *optimizer.state[param].values()])
    assert results[0][0].data_ptr() % lowering.ALIGNMENT == 0
    assert all(map(torch.equal, *results))


def test_aligned_and_other_tensors_in_one_step(device):
    values = [rand(n).to(device) for n in (1030, 1030, 5)]
    mine = [leaf(values[0]), off_by_one(values[1]).requires_grad_(), leaf(values[2])]
    theirs = [leaf(p.detach().cpu()) for p in mine]
    a, b = tw.AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    for grads in gradients(theirs, 2):
        give(mine, grads)
        give(theirs, grads)
        with launches() as found:
            a.step()
        b.step()
    assert len(found) == 3  # rows, aligned, others
    assert_same(a, mine, b, theirs)


@one_each
def test_empty_tensors(configuration, device):
    mine = [leaf(rand(*shape).to(device)) for shape in ((0,), (5,), (3, 0, 2))]
    compare(configuration, mine)
    only = [leaf(rand(0).to(device))]
    compare(configuration, only)


@one_each
def test_numbers(configuration, device):
    compare(configuration, [leaf(rand().to(device)), leaf(rand(1).to(device))])


COMPLEX = [one for one in ONE_EACH if one[0] not in ("Adamax",)]


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])
@pytest.mark.parametrize("configuration", COMPLEX, ids=label)
def test_complex(configuration, dtype, device):
    values = torch.complex(rand(600), rand(600, seed=1))
    mine, theirs = leaf(values.to(device, dtype)), leaf(values)
    a, b = ours(configuration, [mine]), oracle(configuration, [theirs])
    steps = gradients([theirs], 3)
    follow(a, [mine], steps)
    follow(b, [theirs], steps)
    assert_close(mine, theirs, rtol=1e-9 if dtype == torch.complex128 else 1e-5)


def sparse(rows, values, shape, device):
    return torch.sparse_coo_tensor(torch.tensor([rows], device=device), values.to(device), shape)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("width", [4, 65, 1100])
@pytest.mark.parametrize(
    "configuration", [("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1, "lr_decay": 0.1})], ids=label
)
def test_sparse_gradients(configuration, width, device):
    mine = leaf(rand(20, width).to(device))
    theirs = leaf(mine.detach().cpu())
    a, b = ours(configuration, [mine]), oracle(configuration, [theirs])
    for i, rows in enumerate(([3, 7, 3], [0, 19], [5], [])):
        values = rand(len(rows), width, seed=i)
        mine.grad = sparse(rows, values, (20, width), device)
        theirs.grad = sparse(rows, values, (20, width), "cpu")
        a.step()
        b.step()
    assert_same(a, [mine], b, [theirs])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("options", [{"state": "int8"}, {"state": "bfloat16"}, {"sparse": "exact"}], ids=str)
def test_sparse_gradients_with_state_in_fewer_bytes_and_exact(options, device):
    mine = leaf(rand(70, 64).to(device), torch.float32)
    theirs = leaf(mine.detach().cpu(), torch.float32)
    a, b = tw.AdamW([mine], lr=0.1, **options), tw.AdamW([theirs], lr=0.1, **options)
    for i, rows in enumerate(([*range(70)], [3, 7, 3], [0, 69], [], [3, 5])):
        values = rand(len(rows), 64, seed=i).float()
        mine.grad = sparse(rows, values, (70, 64), device)
        theirs.grad = sparse(rows, values, (70, 64), "cpu")
        a.step()
        b.step()
    assert a.state_dict()["state"][0].keys() == b.state_dict()["state"][0].keys()
    assert_close(mine, theirs, rtol=0.02 if "state" in options else 1e-5)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_and_dense_gradients_of_one_parameter_in_turn(device):
    mine = leaf(rand(20, 4).to(device))
    theirs = leaf(mine.detach().cpu())
    a, b = tw.Adagrad([mine], lr=0.1), torch.optim.Adagrad([theirs], lr=0.1, foreach=False)
    for i in range(4):
        values = rand(2, 4, seed=i)
        dense = rand(20, 4, seed=i)
        mine.grad = dense.to(device) if i % 2 else sparse([1, 5], values, (20, 4), device)
        theirs.grad = dense if i % 2 else sparse([1, 5], values, (20, 4), "cpu")
        a.step()
        b.step()
    assert_same(a, [mine], b, [theirs])


def test_parameters_that_share_memory_are_stepped_one_after_the_other(device):
    base, twin = rand(100).to(device), rand(100)
    mine = [base[:60].requires_grad_(), base[40:].requires_grad_()]
    theirs = [twin[:60].requires_grad_(), twin[40:].requires_grad_()]
    a, b = tw.SGD(mine, lr=0.1), torch.optim.SGD(theirs, lr=0.1, foreach=False)
    steps = gradients(theirs, 2)
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_close(base, twin)


@STATES
def test_strided_tensors_are_stepped_like_their_copies(state, device):
    base = rand(80, 140).to(device, torch.float32)
    view, copy = base[:, ::2].requires_grad_(), leaf(base[:, ::2].contiguous())
    steps = gradients([copy], 3)
    for p in (view, copy):
        follow(tw.Adam([p], lr=0.1, state=state), [p], steps)
    assert torch.equal(view, copy)


def test_more_elements_than_32_bits_count(cuda):
    free, _ = torch.cuda.mem_get_info()
    if free < 2**31 * 12:
        pytest.skip("not enough memory")
    count = 2**31 + 1030
    param = torch.zeros(count, dtype=torch.bfloat16, device=cuda).requires_grad_()
    param.grad = torch.ones_like(param)
    tw.SGD([param], lr=1.0).step()
    assert (param.detach() == -1).all()
