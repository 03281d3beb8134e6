"""What is looked at before every step: what a user changes in place is seen, or is not our business."""

from __future__ import annotations

import ctypes

import pytest
import torch
from support import leaf, rand

from thalweg.lowering.look.look import Look, Row, Seen

SAME, OTHER, MOVED, VALUES = 0, Seen.OTHER, Seen.MOVED, Seen.VALUES


class Scene:
    """Some parameters in two groups, with gradients and state."""

    def __init__(self):
        self.params = [
            leaf(rand(*shape), torch.float32) for shape in ((3, 4), (4, 4), (5,), (2, 1, 2, 1, 2, 1, 3))
        ]
        for p in self.params:
            p.grad = torch.ones_like(p)
        self.groups = [
            {"params": self.params[:2], "lr": 0.1, "mine": object()},
            {"params": self.params[2:], "lr": 0.2, "mine": None},
        ]
        self.state = {p: {"step": torch.zeros(()), "m": torch.zeros_like(p), "n": 3} for p in self.params}
        self.state["foreign"] = 5
        self.look = Look(self.groups, self.state, [id(p) for p in self.params])
        assert self.look.complete

    def again(self) -> int:
        return self.look.again(self.groups, self.state)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def transpose(s):
    s.params[1].data = s.params[1].data.t()


def cut(s):
    s.params[0].data = s.params[0].data[:2]


def set_to_another_shape(s):
    with torch.no_grad():
        s.params[0].set_(torch.ones(4, 3))


def widen(s):
    s.params[2].data = s.params[2].data.double()


def stride(s):
    s.params[2].data = torch.ones(10)[::2]


def many_dims(s):
    p = s.params[3]
    p.data = p.data.permute(2, 1, 0, 3, 4, 5, 6)  # the same sizes


def release(s):
    s.params[0].untyped_storage().resize_(0)


def cut_state(s):
    s.state[s.params[2]]["m"] = torch.zeros(4)


def cut_state_in_place(s):
    s.state[s.params[2]]["m"].resize_(4)


def state_of_another_dtype(s):
    s.state[s.params[0]]["step"] = torch.zeros((), dtype=torch.float64)


def state_is_a_number(s):
    s.state[s.params[0]]["step"] = 1


def state_is_cleared(s):
    s.state.clear()


def state_has_more(s):
    s.state[s.params[0]]["more"] = 1


def state_has_less(s):
    del s.state[s.params[0]]["n"]


def state_is_no_dict(s):
    s.state[s.params[0]] = 7


def gradient_of_another_shape(s):
    s.params[0].grad.data = torch.ones(4, 3)


def gradient_of_another_dtype(s):
    s.params[0].grad.data = torch.ones(3, 4, dtype=torch.float64)


def gradient_is_transposed(s):
    s.params[1].grad = torch.ones(4, 4).t()


def gradient_is_sparse(s):
    s.params[1].grad = torch.eye(4).to_sparse()


def gradient_is_negated_lazily(s):
    s.params[1].grad = torch._neg_view(torch.ones(4, 4))


def copy_on_write(s):
    s.kept = torch._lazy_clone(s.params[0].detach())


def another_parameter(s):
    s.groups[0]["params"][0] = leaf(rand(3, 4), torch.float32)


def parameter_is_swapped(s):
    torch.utils.swap_tensors(s.params[0], leaf(rand(3, 5), torch.float32))


def group_has_more(s):
    s.groups[1]["momentum"] = 0.5


def group_is_another(s):
    s.groups[0] = dict(s.groups[0])


def list_is_another(s):
    s.groups[0]["params"] = list(s.groups[0]["params"])


def group_is_added(s):
    s.groups.append({"params": [leaf(rand(2))], "lr": 0.3, "mine": None})


def group_is_taken_away(s):
    s.groups.pop()


OTHERS = [
    *(transpose, cut, set_to_another_shape, widen, stride, many_dims, release, cut_state, cut_state_in_place),
    *(state_of_another_dtype, state_is_a_number, state_is_cleared, state_has_more, state_has_less),
    *(state_is_no_dict, gradient_of_another_shape, gradient_of_another_dtype, gradient_is_transposed),
    *(gradient_is_sparse, gradient_is_negated_lazily, copy_on_write, another_parameter, parameter_is_swapped),
    *(group_has_more, group_is_another, list_is_another, group_is_added, group_is_taken_away),
]


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_what_needs_another_plan_is_seen(scene, change):
    assert scene.again() == SAME
    change(scene)
    assert scene.again() == OTHER


def test_what_is_alike_elsewhere_is_told(scene):
    p = scene.params[0]
    for tensor in (p, scene.state[p]["m"]):
        tensor.data = torch.ones(3, 4)
        assert scene.again() == MOVED
        assert scene.again() == SAME
    scene.state[p]["m"] = torch.ones(3, 4)
    assert scene.again() == MOVED
    assert scene.look.rows[scene.look.state_row(p, "m"), 5] == scene.state[p]["m"].data_ptr()


def test_a_value_of_a_group_is_told(scene):
    scene.groups[1]["lr"] = 0.5
    assert scene.again() == VALUES
    scene.look.note_values(scene.groups)
    assert scene.again() == SAME
    scene.groups[0]["mine"] = object()
    assert scene.again() == VALUES


def test_foreign_entries_are_nobodys_business(scene):
    scene.state["foreign"] = {"a": 1}
    scene.state[scene.params[0]]["n"] = torch.ones(3)
    assert scene.again() == SAME


def test_gradients_come_and_go(scene):
    p = scene.params[2]
    cells = torch.zeros(4, dtype=torch.int64).numpy()
    scene.look.tell([scene.look.row(q) + 1 for q in scene.params], cells)
    p.grad = None
    assert (scene.again(), cells[2], scene.look.absent) == (SAME, 0, 1)
    p.grad = torch.ones(5)
    assert (scene.again(), cells[2], scene.look.absent) == (SAME, p.grad.data_ptr(), 0)


def test_a_gradient_that_nobody_knows_is_seen():
    scene = Scene()
    p = scene.params[2]
    grad, p.grad = p.grad, None
    look = Look(scene.groups, scene.state, [id(q) for q in scene.params])
    assert look.again(scene.groups, scene.state) == SAME
    p.grad = grad
    assert look.again(scene.groups, scene.state) == OTHER
    p.grad = None
    look.expect(scene.look, {id(p)})  # which has seen it
    p.grad = grad
    assert look.again(scene.groups, scene.state) == SAME


def test_an_empty_gradient_is_there():
    p = leaf(torch.zeros(0, 3))
    p.grad = torch.zeros(0, 3)
    look = Look([{"params": [p]}], {}, [id(p)])
    cell = torch.zeros(1, dtype=torch.int64).numpy()
    look.tell([look.row(p) + 1], cell)
    assert cell[0] == 1
    p.grad = None
    assert look.again([{"params": [p]}], {}) == OTHER  # other groups


def test_what_is_asked_for_ahead_may_lie_anywhere(scene):
    noted = [Row.OBJECT, Row.PART_OBJECT, Row.STORAGE, Row.VERSION, Row.PART_VERSION, Row.GRAD]
    scene.look.rows[:, noted] = 0x5A5A5A5A5A5A5A5A
    assert scene.again() == SAME
    scene.look.rows[:, noted] = -1
    assert scene.again() == SAME


def test_the_version_counter_is_where_it_was_found(scene):
    param = scene.params[0]
    with torch.no_grad():
        param.add_(1)
    assert scene.again() == SAME
    counter = int(scene.look.rows[scene.look.row(param), Row.VERSION])
    counted = (ctypes.c_int64 * 4).from_address(counter)
    assert any(word & 0xFFFFFFFF == param._version == 1 for word in counted[1:])
    # Two words count references, which for a parameter alone with its counter are 1 as well.
    torch._C._autograd._unsafe_set_version_counter((param,), (78,))
    assert any(word & 0xFFFFFFFF == param._version == 78 for word in counted[1:])
