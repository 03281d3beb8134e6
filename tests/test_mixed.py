"""One optimizer whose groups follow different rules."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch

import thalweg as tw


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 16)
        self.hidden = torch.nn.Linear(16, 33)
        self.head = torch.nn.Linear(33, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(self.embedding(x).mean(1))))


def net(dtype=torch.float64):
    torch.manual_seed(3)
    return Net().to(dtype)


def parts(model):
    adam = [*model.embedding.parameters(), *model.head.parameters()]
    return adam, list(model.hidden.parameters())


def mixed(model, **shared):
    adam, sgd = parts(model)
    return tw.Mixed(
        [
            {"params": adam, "optimizer": "Adam", "lr": 1e-2},
            {"params": sgd, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9},
        ],
        **shared,
    )


def separate(model):
    adam, sgd = parts(model)
    return (
        torch.optim.Adam(adam, lr=1e-2, weight_decay=0.01, foreach=False),
        torch.optim.SGD(sgd, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False),
    )


def losses(model, steps=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randint(0, 50, (8, 4), generator=generator)
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), x[:, 0] % 5)
        loss.backward()
        yield loss.item()


def train(model, optimizers, steps, seed=0, clip=None):
    for _ in losses(model, steps, seed):
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step()


def assert_same(one, other, tolerance=1e-12):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_each_group_follows_its_rule():
    ours, theirs = net(), net()
    train(ours, [mixed(ours, weight_decay=0.01)], 6)
    train(theirs, separate(theirs), 6)
    assert_same(ours, theirs)


def test_gradients_are_clipped_by_the_norm_of_all_rules():
    ours, theirs = net(), net()
    train(ours, [mixed(ours, weight_decay=0.01, max_norm=0.1)], 6)
    train(theirs, separate(theirs), 6, clip=0.1)
    assert_same(ours, theirs, 1e-9)


def test_a_step_that_is_not_finite_changes_no_group():
    model = net()
    optimizer = mixed(model, skip_nonfinite=5)
    train(model, [optimizer], 2)
    before = copy.deepcopy(model.state_dict())
    next(losses(model))
    model.hidden.bias.grad[3] = torch.inf
    with pytest.warns(UserWarning, match="not all finite"):
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_the_state_dict_goes_on(copied):
    ours, again = net(), net()
    optimizer = mixed(ours, state="int8", average=0.9)
    train(ours, [optimizer], 4)
    again.load_state_dict(ours.state_dict())
    other = mixed(again, state="int8", average=0.9)
    other.load_state_dict(copied(optimizer.state_dict()))
    train(ours, [optimizer], 3, seed=1)
    train(again, [other], 3, seed=1)
    assert_same(ours, again, 0)


def test_separate_optimizers_checkpoints_load():
    ours, theirs = net(), net()
    pair = separate(theirs)
    train(theirs, pair, 4)
    ours.load_state_dict(theirs.state_dict())
    optimizer = mixed(ours, weight_decay=0.01)
    optimizer.load_state_dict(tw.Mixed.joined([copy.deepcopy(one.state_dict()) for one in pair]))
    train(theirs, pair, 3, seed=1)
    train(ours, [optimizer], 3, seed=1)
    assert_same(ours, theirs)


def test_a_scheduler_sees_all_groups_and_each_rule_its_own_rate():
    model = net()
    optimizer = mixed(model)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 0.5)
    train(model, [optimizer], 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.05]


def test_groups_have_the_keys_and_defaults_of_their_class():
    adam, sgd = mixed(net()).param_groups
    assert adam["betas"] == (0.9, 0.999)
    assert sgd["momentum"] == 0.9
    assert "betas" not in sgd
    assert (adam["optimizer"], sgd["optimizer"]) == ("Adam", "SGD")


def test_the_rule_may_be_a_class_of_the_users_or_the_default():
    class Mine(tw.AdamW):
        pass

    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = tw.Mixed([{"params": weights[0], "optimizer": Mine}, {"params": weights[1]}], "SGD")
    assert [group["optimizer"] for group in optimizer.param_groups] == ["Mine", "SGD"]
    for weight in weights:
        weight.grad = torch.ones(3)
    optimizer.step()
    assert (weights[0] < 1).all()
    assert (weights[1] < 1).all()


@pytest.mark.parametrize(
    ("group", "error", "said"),
    [
        ({}, ValueError, "must be a subclass of thalweg.Optimizer or one of"),
        ({"optimizer": "Adan"}, ValueError, "'Adan'"),
        ({"optimizer": torch.optim.SGD}, ValueError, "must be a subclass"),
        ({"optimizer": "SGD", "betas": (0.9, 0.99)}, TypeError, "betas"),
        ({"optimizer": "Adam", "lr": -1.0}, ValueError, "lr must be"),
        ({"optimizer": "SGD", "max_norm": -1.0}, ValueError, "max_norm must be"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_changed(group, error, said):
    optimizer = mixed(net())
    with pytest.raises(error, match=said):
        optimizer.add_param_group({"params": [torch.zeros(3, requires_grad=True)], **group})
    assert len(optimizer.param_groups) == 2


def test_a_checkpoint_of_other_rules_is_refused():
    model = net()
    saved = mixed(model).state_dict()
    saved["param_groups"][1]["optimizer"] = "RMSprop"
    with pytest.raises(ValueError, match="follows the rule of SGD here and of RMSprop"):
        mixed(model).load_state_dict(saved)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_step_like_the_original(copied):
    model = net()
    optimizer = mixed(model)
    train(model, [optimizer], 2)
    other_model, other = copied((model, optimizer))
    train(model, [optimizer], 2, seed=1)
    train(other_model, [other], 2, seed=1)
    assert_same(model, other_model, 0)


def test_an_optimizer_is_freed_with_its_last_reference():
    model = net()
    optimizer = mixed(model)
    train(model, [optimizer], 2)
    seen = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert seen() is None
    finally:
        gc.enable()
