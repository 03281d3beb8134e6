"""Strides, offsets and sparse rows: where elements lie must not matter, and neighbours must not move."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
    state_of,
    twins,
)
from torch import Tensor, nn

import thalweg as tw

# torch says once that it does not check the indices of sparse tensors, which are right here.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

FEW = [ONE_EACH[0], ONE_EACH[3], ONE_EACH[5]]
few = pytest.mark.parametrize("configuration", FEW, ids=label)
one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)

# Each makes a view of the base that it is given; what is beside the view belongs to someone else.
VIEWS = {
    "contiguous": (rand(6, 8), lambda base: base[:]),
    "columns": (rand(6, 8), lambda base: base[:, 2:5]),
    "every other row": (rand(6, 8), lambda base: base[::2]),
    "every other": (rand(40), lambda base: base[1::2]),
    "transposed": (rand(6, 8), lambda base: base.t()),
    "transposed columns": (rand(6, 8), lambda base: base[:, 1:4].t()),
    "middle rows": (rand(6, 8), lambda base: base[1:4]),
    "one column": (rand(6, 8), lambda base: base[:, 3]),
    "one element": (rand(6, 8), lambda base: base[2, 3]),
    "nothing": (rand(6, 8), lambda base: base[:, 4:4]),
    "channels_last": (rand(2, 3, 4, 5), lambda base: base.to(memory_format=torch.channels_last)),
    "channels_last_3d": (
        rand(2, 3, 2, 4, 5),
        lambda base: base.to(memory_format=torch.channels_last_3d),
    ),
    "permuted": (rand(2, 3, 4), lambda base: base.permute(2, 0, 1)),
    "size 1, odd stride": (rand(5, 7), lambda base: base.as_strided((5, 1, 1), (7, 3, 99))),
    "dense, size 1, odd stride": (rand(35), lambda base: base.as_strided((1, 35), (3, 1))),
    "misaligned": (rand(50), lambda base: base[3:44]),
    "large columns": (rand(300, 200), lambda base: base[:, :150]),
}


def strided_like(value: Tensor, dims: list[int]) -> Tensor:
    """Return `value` laid out in the order `dims`, slowest first."""
    inverse = [dims.index(i) for i in range(len(dims))]
    return value.permute(dims).contiguous().permute(inverse)


@few
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("view", VIEWS)
def test_views(configuration, view, dtype):
    base, make = VIEWS[view]
    base = base.to(dtype, copy=True)
    seen = make(base)
    whole = base if seen._is_view() else seen
    param = seen.detach().requires_grad_()
    plain = leaf(seen.contiguous())
    expected_whole = whole.clone()
    a, b = ours(configuration, [param]), ours(configuration, [plain])
    for grads in gradients([param], 3):
        follow(a, [param], [grads])
        follow(b, [plain], [grads])
    expected = make(expected_whole) if seen._is_view() else expected_whole
    assert expected.shape == plain.shape
    with torch.no_grad():
        expected.copy_(plain)
    # The same arithmetic, but another element of a vector may fuse another multiplication.
    assert_close(whole, expected_whole, rtol=4 * torch.finfo(dtype).eps)


@few
@pytest.mark.parametrize("view", VIEWS)
def test_views_against_torch(configuration, view):
    # torch's unfused step is right on any strides.
    base, make = VIEWS[view]
    mine = make(base.clone()).detach().requires_grad_()
    theirs = leaf(mine)
    a, b = ours(configuration, [mine]), oracle(configuration, [theirs])
    for grads in gradients([mine], 3):
        follow(a, [mine], [grads])
        follow(b, [theirs], [grads])
    assert_same(a, [mine], b, [theirs])


@few
def test_gradients_laid_out_otherwise(configuration):
    mine, theirs = twins([rand(4, 5, 6), rand(4, 5, 6).permute(2, 0, 1), rand(7, 3)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 1, 2]]
    flat_orders = [[0, 1], [1, 0], [1, 0], [0, 1]]
    for grads, order, flat in zip(gradients(mine, 4), orders, flat_orders, strict=True):
        laid = [strided_like(g, order if g.dim() == 3 else flat) for g in grads]
        for p, g in zip(mine, laid, strict=True):
            p.grad = g
        a.step()
        assert all(map(torch.equal, laid, grads))  # also not changed by a copy's way back
        follow(b, theirs, [grads])
        assert_same(a, mine, b, theirs)


@few
@pytest.mark.parametrize("shape", [(5, 4), (1, 4), (3, 1)])
def test_expanded_gradients(configuration, shape):
    # What `x.sum().backward()` leaves: one element, seen everywhere.
    mine, theirs = twins([rand(*shape)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for value in (0.5, -2.0):
        for optimizer, (param,) in ((a, mine), (b, theirs)):
            param.grad = torch.tensor(value, dtype=torch.float64).expand(shape)
            optimizer.step()
    assert_same(a, mine, b, theirs)
    assert mine[0].grad.stride() == torch.zeros(()).expand(shape).stride()


def test_a_sum_leaves_an_expanded_gradient():
    # If autograd one day makes these contiguous, the test above tests less than it says.
    param = leaf(rand(3, 4))
    (grad,) = torch.autograd.grad(param.sum(), param)
    assert grad.stride() == (0, 0)


@few
def test_parameters_converted_to_channels_last_between_steps(configuration):
    torch.manual_seed(0)
    net, twin = nn.Conv2d(3, 4, 3).double(), nn.Conv2d(3, 4, 3).double()
    twin.load_state_dict(net.state_dict())
    mine, theirs = list(net.parameters()), list(twin.parameters())
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    x = rand(2, 3, 6, 6)
    for i in range(4):
        if i == 2:
            net.to(memory_format=torch.channels_last)
            x = x.to(memory_format=torch.channels_last)
        for module, optimizer in ((net, a), (twin, b)):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    assert not net.weight.is_contiguous()
    assert_same(a, mine, b, theirs)


@few
def test_neighbours_in_one_buffer(configuration):
    # Flattened parameters, as DDP and FSDP keep them: every parameter is a piece of one tensor.
    flat, sizes = rand(200), (13, 1, 64, 100, 22)
    mine = [piece.detach().requires_grad_() for piece in flat.split(sizes)]
    theirs = [leaf(piece) for piece in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    steps = gradients(mine, 3)
    steps[1][2] = None
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_close(flat, torch.cat([q.detach() for q in theirs]))


@few
@pytest.mark.parametrize("lazy", ["conj", "neg"])
def test_lazy_signs_of_complex_gradients(configuration, lazy):
    value = torch.complex(rand(5, 3), rand(5, 3, seed=1))
    mine, theirs = twins([value])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for (grad,) in gradients(mine, 3):
        mine[0].grad = grad.conj() if lazy == "conj" else torch._neg_view(grad)
        theirs[0].grad = (grad.conj() if lazy == "conj" else torch._neg_view(grad)).clone()
        theirs[0].grad = theirs[0].grad.resolve_conj().resolve_neg()
        a.step()
        b.step()
    assert_same(a, mine, b, theirs)


@few
def test_negative_views_of_real_gradients(configuration):
    # The imaginary part of a conjugate is one: no copy, only a bit that says "negate".
    mine, theirs = twins([rand(6)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for (grad,) in gradients(mine, 3):
        mine[0].grad = torch._neg_view(grad)
        theirs[0].grad = -grad
        a.step()
        b.step()
    assert_same(a, mine, b, theirs)


@few
def test_strided_complex_parameters(configuration):
    base = torch.complex(rand(4, 6), rand(4, 6, seed=1))
    for make in (lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[1]):
        buffer = base.clone()
        mine = make(buffer).detach().requires_grad_()
        theirs = leaf(mine.contiguous())
        a, b = ours(configuration, [mine]), oracle(configuration, [theirs])
        for grads in gradients([mine], 3):
            follow(a, [mine], [grads])
            follow(b, [theirs], [grads])
        expected = base.clone()
        make(expected).copy_(theirs.detach())
        assert_close(buffer, expected)


@st.composite
def memory(draw, shape):
    """Draw a recipe that makes a base and a view of `shape` in it: order, gaps and an offset."""
    dims = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    starts = draw(st.lists(st.integers(0, 2), min_size=len(shape), max_size=len(shape)))
    dense = draw(st.booleans())

    def make(value: Tensor) -> tuple[Tensor, Tensor]:
        if dense or not shape:
            steps_, starts_ = [1] * len(shape), [0] * len(shape)
        else:
            steps_, starts_ = steps, starts
        sizes = [starts_[d] + shape[d] * steps_[d] for d in dims]
        base = torch.full(sizes, 7.0, dtype=value.dtype)
        slices = [slice(starts_[d], starts_[d] + shape[d] * steps_[d], steps_[d]) for d in dims]
        view = base[tuple(slices)] if dims else base[...]
        view = view.permute([dims.index(i) for i in range(len(dims))]) if dims else view
        view.copy_(value)
        return base, view

    return make


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    return shape, draw(memory(shape)), [draw(memory(shape)) for _ in range(3)]


@few
@given(case=cases(), skip=st.integers(0, 4))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_memory(configuration, case, skip):
    shape, of_param, of_grads = case
    base, view = of_param(rand(*shape))
    mine, theirs = view.detach().requires_grad_(), leaf(rand(*shape))
    assert mine.data_ptr() == view.data_ptr()
    a, b = ours(configuration, [mine]), oracle(configuration, [theirs])
    steps = gradients([theirs], 3)
    for i, ((grad,), of_grad) in enumerate(zip(steps, of_grads, strict=True)):
        if i == skip:
            continue
        grad_base, mine.grad = of_grad(grad)
        grad_before = grad_base.clone()
        theirs.grad = grad.clone()
        a.step()
        b.step()
        assert torch.equal(grad_base, grad_before)
    expected, _ = of_param(theirs.detach())
    assert_close(base, expected)
    for name, value in b.state[theirs].items():
        assert_close(a.state[mine][name], value)


# --- sparse rows ---


def sparse(shape, rows, seed, sparse_dims=1, dtype=torch.float64):
    """Return a gradient that names `rows`, lists of indices for each sparse dimension."""
    indices = torch.tensor(rows, dtype=torch.int64).reshape(sparse_dims, -1)
    values = rand(indices.shape[1], *shape[sparse_dims:], seed=seed).to(dtype)
    return torch.sparse_coo_tensor(indices, values, shape)


SPARSE = [
    [[0, 3, 5]],  # in order
    [[5, 0, 3]],  # unordered
    [[1, 1, 4, 1]],  # several times the same row
    [[]],  # none
    [[6]],  # the last
]


def give_sparse(params, shape, rows, seed, sparse_dims=1, coalesce=False):
    for p in params:
        grad = sparse(shape, rows, seed, sparse_dims, p.dtype)
        p.grad = grad.coalesce() if coalesce else grad


@pytest.mark.parametrize(
    "configuration",
    [("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1}), ("Adagrad", {"lr": 0.1, "lr_decay": 0.5})]
    + [("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "maximize": True})],
    ids=label,
)
@pytest.mark.parametrize("coalesce", [False, True])
def test_sparse_gradients_as_in_torch(configuration, coalesce):
    mine, theirs = twins([rand(7, 5)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for i, rows in enumerate(SPARSE):
        give_sparse([*mine, *theirs], (7, 5), rows, i, coalesce=coalesce)
        a.step()
        b.step()
        assert_same(a, mine, b, theirs)


@pytest.mark.parametrize("configuration", [("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1})])
def test_two_sparse_dimensions(configuration):
    mine, theirs = twins([rand(4, 3, 2)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for i, rows in enumerate([[[0, 3, 3], [2, 0, 1]], [[1, 1], [1, 1]], [[], []]]):
        give_sparse([*mine, *theirs], (4, 3, 2), rows, i, sparse_dims=2)
        a.step()
        b.step()
        assert_same(a, mine, b, theirs)


@pytest.mark.parametrize("configuration", [("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1})])
@pytest.mark.parametrize("shape", [(7,), (7, 0), (0, 5)])
def test_sparse_gradients_of_thin_parameters(configuration, shape):
    mine, theirs = twins([rand(*shape)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    rows = [[1, 5, 1]] if shape[0] else [[]]
    give_sparse([*mine, *theirs], shape, rows, 1)
    a.step()
    b.step()
    assert_same(a, mine, b, theirs)


@one_each
def test_a_sparse_step_is_a_dense_step_of_the_rows(configuration):
    # Lazy updates: rows that the gradient does not name keep value and state, to the bit.
    mine = leaf(rand(9, 4))
    optimizer = ours(configuration, [mine])
    rows = [1, 4, 8]
    twin = leaf(mine[rows])
    plain = ours(configuration, [twin])
    before = mine.detach().clone()
    for i in range(4):
        give_sparse([mine], (9, 4), [rows], i)
        twin.grad = rand(3, 4, seed=i)
        optimizer.step()
        plain.step()
    others = [i for i in range(9) if i not in rows]
    assert torch.equal(mine[others], before[others])
    assert_close(mine[rows], twin, rtol=1e-14)
    slots = {k: v for k, v in state_of(optimizer, [mine])[0].items() if v.dim()}
    fresh = ours(configuration, [leaf(rand(9, 4))])
    initial = fresh.param_groups[0].get("initial_accumulator_value", 0.0)
    for name, value in slots.items():
        assert (value[others] == initial).all()
        assert_close(value[rows], plain.state[twin][name], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
def test_sparse_gradients_in_other_dtypes(dtype):
    param = leaf(rand(9, 4), dtype)
    twin = leaf(param)
    a, b = tw.SGD([param], lr=0.5), tw.SGD([twin], lr=0.5)
    param.grad = sparse((9, 4), [[1, 7]], 0, dtype=dtype)
    twin.grad = param.grad.to_dense()
    a.step()
    b.step()
    assert torch.equal(param, twin)


def test_an_embedding_trains_sparsely_and_densely():
    torch.manual_seed(0)
    net, twin = nn.Embedding(50, 8, sparse=True).double(), nn.Embedding(50, 8, sparse=True).double()
    twin.load_state_dict(net.state_dict())
    a = tw.SGD(net.parameters(), lr=0.1)
    b = torch.optim.SGD(twin.parameters(), lr=0.1, foreach=False)
    for i in range(4):
        tokens = torch.randint(0, 50, (6,), generator=torch.Generator().manual_seed(i))
        for module, optimizer in ((net, a), (twin, b)):
            optimizer.zero_grad()
            (module(tokens) ** 2).sum().backward()
            if i == 2:
                module.weight.grad = module.weight.grad.to_dense()
            optimizer.step()
        assert_close(net.weight, twin.weight)


def test_sparse_gradients_of_a_strided_parameter():
    base = rand(7, 10)
    expected = base.clone()
    param = base[:, 2:6].detach().requires_grad_()
    twin = leaf(param)
    a, b = tw.Adagrad([param], lr=0.1), torch.optim.Adagrad([twin], lr=0.1)
    for i, rows in enumerate(SPARSE):
        give_sparse([param, twin], (7, 4), rows, i)
        a.step()
        b.step()
    expected[:, 2:6] = twin.detach()
    assert_close(base, expected)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("coalesced", [True, False])
def test_a_scaled_sparse_step(coalesced, fused):
    param, twin = leaf(rand(9, 4)), leaf(rand(9, 4))
    a, b = tw.Adagrad([param], lr=0.1, fused=fused), tw.Adagrad([twin], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    give_sparse([twin], (9, 4), [[1, 7, 1]], 0, coalesce=coalesced)
    param.grad = twin.grad * 1024.0
    assert param.grad.is_coalesced() == coalesced
    scaler.step(a)
    scaler.update()
    b.step()
    assert_close(param, twin)
    assert_close(param.grad.to_dense(), twin.grad.to_dense())


@pytest.mark.parametrize("shift", [1, 3, 5])
def test_strided_views_that_overlap_are_stepped_one_after_the_other(shift):
    def after(module):
        base = torch.zeros(4, 10, dtype=torch.float64)
        views = [torch.nn.Parameter(base[:, :5]), torch.nn.Parameter(base[:, shift : shift + 5])]
        optimizer = module.SGD(views, lr=1.0, momentum=0.9)
        for _ in range(3):
            give(views, [torch.ones(4, 5), torch.ones(4, 5)])
            optimizer.step()
        return base

    torch.testing.assert_close(after(tw), after(torch.optim))
