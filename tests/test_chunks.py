"""The planner: every element in exactly one chunk, every chunk in exactly one task."""

from __future__ import annotations

from unittest.mock import patch

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.lowering.chunks import COST, SIZE, Chunks
from thalweg.lowering.cpu import kernels as cpu
from thalweg.storage.layout import home_order, is_plain, like_home, order, overlaps_itself

quick = hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)

lengths = st.lists(
    st.one_of(
        st.integers(0, 3),
        st.sampled_from([SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, 5 * SIZE + 7]),
        st.integers(0, 10 * SIZE),
    ),
    max_size=30,
)


def assert_tasks_partition(chunks: Chunks) -> None:
    assert chunks.tasks.dtype == np.int64
    assert chunks.tasks[0] == 0
    assert chunks.tasks[-1] == len(chunks.table)
    assert (np.diff(chunks.tasks) > 0).all()


@given(lengths)
@quick
def test_every_element_is_covered_once(lengths):
    chunks = Chunks.dense(lengths)
    assert chunks.elements == sum(lengths)
    for tensor, length in enumerate(lengths):
        own = chunks.table[chunks.table[:, 0] == tensor]
        assert (own[:, 1] == own[:, 2]).all()  # the gradient is walked alike
        ends = np.append(own[:, 1], length)
        assert ends[0] == 0 or length == 0
        assert (np.diff(ends) == own[:, 3]).all()
    assert (chunks.table[:, 3] > 0).all()  # the kernel's loop runs at least once
    assert (chunks.table[:, 3] <= SIZE).all()


@given(st.integers(0, 10**10), st.integers(1, 256))
@quick
def test_chunks_grow_with_the_work_but_leave_every_thread_many(elements, threads):
    with patch.object(torch, "get_num_threads", lambda: threads):
        most = cpu.chunk(elements)
    assert most % 64 == 0
    assert SIZE <= most <= cpu.LARGEST
    assert most == SIZE or elements // most >= cpu.SHARES * threads


@given(lengths)
@quick
def test_tasks_are_runs_of_chunks_of_about_one_size(lengths):
    chunks = Chunks.dense(lengths)
    assert_tasks_partition(chunks)
    for first, last in zip(chunks.tasks, chunks.tasks[1:], strict=False):
        cost = (chunks.table[first:last, 3] + COST).sum()
        assert cost < 2 * (SIZE + COST)


def test_many_small_tensors_share_tasks():
    chunks = Chunks.dense([64] * 4000)
    assert len(chunks.table) == 4000
    assert len(chunks.tasks) - 1 <= 4000 * (64 + COST) // (SIZE + COST) + 1


def test_nothing_is_no_work():
    for lengths in ([], [0], [0, 0]):
        chunks = Chunks.dense(lengths)
        assert chunks.elements == 0
        assert chunks.table.shape == (0, 4)
        assert chunks.tasks.tolist() == [0]


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**31 + 1, 2**33 + 12_345])
def test_offsets_beyond_32_bits(length):
    # No memory is needed to plan for more than two thousand million elements.
    chunks = Chunks.dense([5, length, 3])
    assert chunks.table.dtype == np.int64
    assert chunks.table.flags.c_contiguous
    big = chunks.table[chunks.table[:, 0] == 1]
    assert big[-1, 1] + big[-1, 3] == length
    assert (big[:, 1] == np.arange(len(big)) * SIZE).all()
    assert chunks.elements == length + 8
    assert_tasks_partition(chunks)


rows = st.lists(
    st.tuples(st.lists(st.integers(0, 50), max_size=10, unique=True), st.integers(0, 40)),
    min_size=1,
    max_size=6,
)


@given(rows)
@quick
def test_rows_are_one_chunk_each(tensors):
    numbers = [np.array(n, np.int64) for n, _ in tensors]
    chunks = Chunks.rows(numbers, [length for _, length in tensors])
    expected = [
        [i, number * length, place * length, length]
        for i, (own, length) in enumerate(tensors)
        for place, number in enumerate(own)
        if length
    ]
    assert chunks.table.tolist() == expected
    assert chunks.elements == sum(len(own) * length for own, length in tensors)
    assert_tasks_partition(chunks)


def test_rows_beyond_32_bits():
    chunks = Chunks.rows([np.array([2**24, 1])], [1024])
    assert chunks.table.tolist() == [[0, 2**34, 0, 1024], [0, 1024, 1024, 1024]]


# --- memory order ---


@st.composite
def tensors(draw):
    """Draw a view of distinct numbers: any order, gaps, sizes 0 and 1 with any stride."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    dims = draw(st.permutations(range(len(shape))))
    base = torch.arange(float(np.prod([n * k for n, k in zip(shape, steps, strict=True)])))
    base = base.reshape([n * k for n, k in zip(shape, steps, strict=True)])
    view = base[tuple(slice(None, None, k) for k in steps)].permute(dims)
    strides = [
        draw(st.sampled_from([stride, 1, 17])) if size == 1 else stride
        for size, stride in zip(view.shape, view.stride(), strict=True)
    ]
    return view.as_strided(view.shape, strides)


def offsets(tensor):
    """Return the place of each element in memory, in the tensor's own order."""
    places = torch.zeros(tensor.shape, dtype=torch.int64)
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        shape = [size if i == dim else 1 for i in range(tensor.dim())]
        places = places + (torch.arange(size) * stride).reshape(shape)
    return places


@given(tensors())
@quick
def test_an_order_is_given_exactly_to_what_fills_its_memory(tensor):
    dense = sorted(offsets(tensor).flatten().tolist()) == list(range(tensor.numel()))
    assert (order(tensor) is not None) == dense


@given(tensors(), st.permutations(range(4)))
@quick
def test_tensors_of_one_order_have_the_same_element_at_each_place(tensor, permutation):
    dims = [d for d in permutation if d < tensor.dim()]
    inverse = [dims.index(d) for d in range(tensor.dim())]
    other = tensor.permute(dims).contiguous().permute(inverse)
    if order(tensor) is not None and order(tensor) == order(other):
        assert torch.equal(offsets(tensor), offsets(other))
    elif order(tensor) is not None:
        assert not torch.equal(offsets(tensor), offsets(other))


@given(tensors())
@quick
def test_state_is_laid_out_like_its_parameter_or_row_by_row(tensor):
    home = like_home(tensor, torch.float32, 1.5)
    assert home.shape == tensor.shape
    assert (home == 1.5).all()
    assert order(home) == home_order(tensor) is not None
    if order(tensor) is not None:
        assert order(home) == order(tensor)
    else:
        assert home.is_contiguous()


def test_lazy_signs_are_not_plain():
    z = torch.ones(3, dtype=torch.complex64)
    assert is_plain(z)
    assert not is_plain(z.conj())
    assert not is_plain(z.conj().imag)
    assert not is_plain(torch.eye(3).to_sparse())


def test_what_expand_makes_overlaps_itself():
    assert overlaps_itself(torch.zeros(1, 3).expand(2, 3))
    assert not overlaps_itself(torch.zeros(1, 3).expand(1, 3))
    assert not overlaps_itself(torch.zeros(3, 2).t())
