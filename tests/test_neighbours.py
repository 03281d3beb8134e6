"""What users have beside an optimizer in plain torch: compilers, hooks, lazy modules, older checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from support import ONE_EACH, assert_same, follow, gradients, label, leaf, oracle, ours, rand, twins
from torch import nn

import thalweg as tw

LIBRARIES = pytest.mark.parametrize("library", [tw, torch.optim], ids=["thalweg", "torch"])
one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)


# --- torch.compile ---


@pytest.fixture
def compiled():
    """Return what runs a function as a compiled one does, anew for each test."""
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    except (torch._dynamo.exc.InternalTorchDynamoError, RuntimeError) as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    yield lambda function, **kwargs: torch.compile(function, backend="eager", **kwargs)()
    torch._dynamo.reset()


def stepped(**options):
    param = leaf(rand(3, 4))
    optimizer = tw.AdamW([param], lr=0.1, **options)
    follow(optimizer, [param], gradients([param], 2))
    return optimizer, param


def load(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def load_weights(optimizer):
    optimizer.load_full_precision_weights(optimizer.full_precision_weights())


def averaged(optimizer):
    with optimizer.averaged():
        pass


def evaluated(optimizer):
    optimizer.eval()
    optimizer.train()


def stepped_in_backward(optimizer):
    with optimizer.in_backward():
        pass


def offloaded(optimizer):
    with optimizer.offload(from_cpu=True):
        optimizer.state_dict()


def asked(optimizer):
    optimizer.init_state()
    optimizer.flush()
    optimizer.statistics()
    optimizer.averaged_weights()
    optimizer.full_precision_state_dict()
    assert optimizer.skipped_steps == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "ask",
    [load, load_weights, averaged, evaluated, stepped_in_backward, offloaded, asked],
    ids=lambda f: f.__name__,
)
def test_methods_may_be_called_in_a_compiled_function(ask, compiled):
    (mine, param), (plain, twin) = (stepped(average=0.9) for _ in range(2))
    compiled(lambda: ask(mine))
    grads = gradients([param], 2, seed=2)
    follow(mine, [param], grads)
    follow(plain, [twin], grads)
    assert torch.equal(param, twin)
    assert torch.equal(mine.averaged_weights()[0], plain.averaged_weights()[0])


@pytest.mark.filterwarnings("ignore")
def test_optimizers_may_be_made_in_a_compiled_function(compiled):
    one, other = leaf(rand(3)), leaf(rand(3))

    def made():
        groups = [{"params": [one], "optimizer": "SGD", "lr": 0.1}]
        mixed = tw.Mixed(groups)
        mixed.add_param_group({"params": [other], "optimizer": "Adam"})
        return mixed, tw.Lion([one])

    mixed, lion = compiled(made)
    assert [group["optimizer"] for group in mixed.param_groups] == ["SGD", "Adam"]
    assert lion.param_groups[0]["lr"] == tw.Lion([one]).param_groups[0]["lr"]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_function_may_step_in_backward(compiled):
    one, other = leaf(rand(5)), leaf(rand(5))
    mine, plain = tw.AdamW([one], lr=0.1), tw.AdamW([other], lr=0.1)
    mine.in_backward()
    for _ in range(3):
        compiled(lambda: (one * one).sum().backward())
        plain.zero_grad()
        (other * other).sum().backward()
        plain.step()
    assert torch.equal(one, other)


@LIBRARIES
def test_a_step_is_no_whole_graph(library, compiled):
    optimizer = library.SGD([leaf(rand(3))], lr=0.1)
    with pytest.raises(torch._dynamo.exc.Unsupported) as raised:
        compiled(optimizer.step, fullgraph=True)
    assert library is torch.optim or "step without fullgraph=True" in str(raised.value)


# --- groups and parameters ---


@one_each
def test_groups_may_all_be_taken_away_and_come_back(configuration):
    mine, theirs = twins([rand(3, 4), rand(5)])
    steps = gradients(mine, 4)
    optimizers = []
    for optimizer_of, params in ((ours, mine), (oracle, theirs)):
        optimizer = optimizer_of(configuration, params)
        follow(optimizer, params, steps[:2])
        groups = list(optimizer.param_groups)
        optimizer.param_groups.clear()
        optimizer.step()
        optimizer.param_groups += groups
        follow(optimizer, params, steps[2:])
        optimizers.append(optimizer)
    assert_same(optimizers[0], mine, optimizers[1], theirs)


@LIBRARIES
def test_parameters_of_lazy_modules_are_stepped_once_they_are_there(library):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)).double()
    optimizer = library.AdamW(model.parameters(), lr=0.1)
    model[1].weight.grad = torch.ones_like(model[1].weight)
    optimizer.step()
    optimizer.zero_grad()
    x = rand(4, 5)
    model(x).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 2, 1]


# --- what is saved ---


@LIBRARIES
@pytest.mark.parametrize("groups", ["gone", {"a": 1}, [1], None], ids=str)
def test_a_hook_may_make_anything_of_a_state_dict(library, groups):
    optimizer = library.SGD([leaf(rand(3))], lr=0.1)
    optimizer.register_state_dict_post_hook(lambda optimizer, saved: {"param_groups": groups})
    assert optimizer.state_dict() == {"param_groups": groups}


def test_a_checkpoint_of_the_first_rmsprop():
    # Where torch fills in what a checkpoint lacks, so is it here.
    mine, theirs = twins([rand(3, 4)])
    steps = gradients(mine, 3)
    optimizers = []
    for library, params in ((tw, mine), (torch.optim, theirs)):
        optimizer = library.RMSprop(params, lr=0.01, momentum=0.9)
        saved = library.RMSprop([leaf(rand(3, 4))], lr=0.1).state_dict()
        for name in ("momentum", "centered", "maximize", "foreach", "capturable", "differentiable"):
            del saved["param_groups"][0][name]
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["momentum"] == 0
        follow(optimizer, params, steps)
        optimizers.append(optimizer)
    assert_same(optimizers[0], mine, optimizers[1], theirs)
