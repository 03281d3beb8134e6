"""Rates without tuning or schedule, `schedule_free`, `dog` and Prodigy, against the papers by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import thalweg as tw

SHAPES = ((50,), (7, 9), (1,))


@pytest.fixture(autouse=True)
def exact_counters():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def start(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in SHAPES
    ]


def pull(params, i):
    generator = torch.Generator().manual_seed(i)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = p.detach() * 0.5 + 0.3 * noise


def run(optimizer, params, steps=20, begin=0):
    for i in range(begin, begin + steps):
        pull(params, i)
        optimizer.step()


def assert_close(ours, theirs, tolerance=1e-9):
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=tolerance, atol=tolerance)


def schedule_free_by_hand(params, direction_of, rates, beta):
    """Return y and x after steps with these rates (equations 3 to 5 of the paper)."""
    y, z, x = ([p.detach().clone() for p in params] for _ in range(3))
    total, largest = 0.0, 0.0
    for i, lr in enumerate(rates):
        for p, value in zip(params, y, strict=True):
            p.data.copy_(value)
        pull(params, i)
        largest = max(largest, lr)
        total += largest**2
        c = largest**2 / total
        for k, p in enumerate(params):
            z[k] = z[k] - lr * direction_of(k, p, i)
            x[k] = (1 - c) * x[k] + c * z[k]
            y[k] = (1 - beta) * z[k] + beta * x[k]
    return y, x


def test_schedule_free_sgd_is_the_paper():
    ours, theirs = start(), start()
    rates = [0.01 * (i + 1) for i in range(5)] + [0.05] * 15
    optimizer = tw.SGD(ours, lr=rates[0], schedule_free=0.8)
    for i, lr in enumerate(rates):
        optimizer.param_groups[0]["lr"] = lr
        run(optimizer, ours, 1, i)
    y, x = schedule_free_by_hand(theirs, lambda k, p, i: p.grad, rates, 0.8)
    assert_close(ours, y)
    with optimizer.averaged():
        assert_close(ours, x)
    assert_close(ours, y)


def test_schedule_free_adamw_is_the_paper():
    ours, theirs = start(), start()
    squares = [torch.zeros(s) for s in SHAPES]

    def direction(k, p, i):
        squares[k].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
        return p.grad / ((squares[k] / (1 - 0.99 ** (i + 1))).sqrt() + 1e-8) + 0.05 * p.detach()

    optimizer = tw.RMSprop(
        ours, 0.01, 0.99, debias=True, weight_decay=0.05, decoupled_weight_decay=True, schedule_free=0.9
    )
    run(optimizer, ours)
    y, x = schedule_free_by_hand(theirs, direction, [0.01] * 20, 0.9)
    assert_close(ours, y)
    assert_close(optimizer.averaged_weights().values(), x)


def test_train_and_eval_are_idempotent():
    params = start()
    optimizer = tw.SGD(params, lr=0.1, schedule_free=0.9)
    optimizer.eval()  # there is no average yet
    run(optimizer, params, 5)
    trained = [p.detach().clone() for p in params]
    optimizer.eval()
    averaged = [p.detach().clone() for p in params]
    optimizer.eval()
    assert_close(params, averaged, 0)
    with pytest.raises(RuntimeError, match="no step can be taken"):
        optimizer.step()
    optimizer.train()
    optimizer.train()
    assert_close(params, trained, 0)
    assert not all(map(torch.equal, trained, averaged))


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (tw.SGD, {"momentum": 0.9}, "takes the place of momentum"),
        (tw.AdamW, {}, "takes the place of momentum"),
        (tw.SGD, {"average": 0.9}, "averages by itself: average"),
        (tw.SGD, {"lookahead": 5}, "averages by itself: lookahead"),
    ],
)
def test_what_does_not_go_together_with_schedule_free(cls, options, said):
    with pytest.raises(ValueError, match=said):
        cls(start(), lr=0.1, schedule_free=0.9, **options)


def dog_by_hand(params, steps, first=1e-6):
    begin = [p.detach().clone() for p in params]
    total, distance = 0.0, first * (1 + math.sqrt(sum(float(b.square().sum()) for b in begin)))
    for i in range(steps):
        pull(params, i)
        total += sum(float(p.grad.square().sum()) for p in params)
        come = math.sqrt(
            sum(float((p.detach() - b).square().sum()) for p, b in zip(params, begin, strict=True))
        )
        distance = max(distance, come)
        for p in params:
            p.data -= distance / math.sqrt(total + 1e-8) * p.grad


def test_dog_is_the_paper():
    ours, theirs = start(), start()
    run(tw.SGD(ours, lr=1.0, dog=True), ours, 40)
    dog_by_hand(theirs, 40)
    assert_close(ours, theirs)


def prodigy_by_hand(params, steps, lr=1.0, decay=0.0, d0=1e-6, correction=False):
    begin = [p.detach().clone() for p in params]
    average, square, total = ([torch.zeros_like(p) for p in params] for _ in range(3))
    d, numerator, beta3 = d0, 0.0, math.sqrt(0.999)
    for i in range(steps):
        pull(params, i)
        rate = d * lr
        if correction:
            rate *= math.sqrt(1 - 0.999 ** (i + 1)) / (1 - 0.9 ** (i + 1))
        numerator *= beta3
        for k, p in enumerate(params):
            g = p.grad
            numerator += d / d0 * rate * float((g * (begin[k] - p.detach())).sum())
            average[k] = 0.9 * average[k] + 0.1 * d * g
            square[k] = 0.999 * square[k] + 0.001 * d * d * g * g
            total[k] = beta3 * total[k] + d / d0 * rate * g
            p.data -= rate * (average[k] / (square[k].sqrt() + d * 1e-8) + decay * p.detach())
        d = max(d, numerator / sum(float(one.abs().sum()) for one in total))
    return d


@pytest.mark.parametrize("options", [{}, {"decay": 0.05}, {"lr": 0.5}, {"correction": True}], ids=str)
def test_prodigy_is_the_paper(options):
    ours, theirs = start(), start()
    names = {"decay": "weight_decay", "correction": "use_bias_correction"}
    optimizer = tw.Prodigy(ours, **{names.get(name, name): value for name, value in options.items()})
    run(optimizer, ours, 60)
    d = prodigy_by_hand(theirs, 61, **options)
    theirs = start()
    prodigy_by_hand(theirs, 60, **options)
    assert_close(ours, theirs, 1e-7)
    run(optimizer, ours, 1, 60)
    assert float(optimizer.state[ours[0]]["d"]) == pytest.approx(d, rel=0.2)


MAKERS = {
    "schedule free": lambda p, **o: tw.SGD(p, lr=0.05, schedule_free=0.9, **o),
    "dog": lambda p, **o: tw.SGD(p, lr=1.0, momentum=0.5, dog=True, **o),
    "prodigy": lambda p, **o: tw.Prodigy(p, **o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_checkpoints_go_on(name):
    ours, again = start(), start()
    optimizer, other = MAKERS[name](ours), MAKERS[name](again)
    run(optimizer, ours, 8)
    for p, q in zip(again, ours, strict=True):
        p.data.copy_(q.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, ours, 5, 8)
    run(other, again, 5, 8)
    assert_close(ours, again, 0)


@pytest.mark.parametrize("name", MAKERS)
def test_in_fewer_bytes_it_goes_nearly_the_same_way(name):
    torch.set_default_dtype(torch.float32)
    found = []
    for options in ({}, {"state": "int8"}):
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(100, 64, generator=generator).requires_grad_()]
        optimizer = MAKERS[name](params, **options)
        run(optimizer, params, 30)
        found.append(params[0].detach())
    moved = (found[0] - torch.randn(100, 64, generator=torch.Generator().manual_seed(0))).norm()
    assert (found[0] - found[1]).norm() < 0.1 * moved
