"""What the tests share: torch's optimizers as the oracle, and configurations to run them in.

Processes of their own import it too, so that it imports little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

import thalweg as tw

NAMES = ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam")
"""The algorithms that torch has too."""

COUNTERS = ("step", "mu_product")
"""State that is one number and not shaped like the parameter."""

FUSED = ("SGD", "Adam", "AdamW", "Adagrad", "Lion")
"""The algorithms that take `fused`."""


ONE_EACH = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 0.5, "weight_decay": 0.1}),
    ("Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1}),
]
"""A configuration with much in it for each algorithm."""


def label(configuration: Any) -> str | None:
    """Name a configuration in the ids of pytest."""
    if not (isinstance(configuration, tuple) and len(configuration) == 2):
        return None
    name, kwargs = configuration
    return "-".join([name, *(f"{key}={_plain(value)}" for key, value in kwargs.items())])


def _plain(value: Any) -> Any:
    return f"tensor{value.item():g}" if isinstance(value, Tensor) else value


def ours(configuration: tuple[str, dict[str, Any]], params: Any) -> tw.Optimizer:
    name, kwargs = configuration
    return getattr(tw, name)(params, **kwargs)


def unscaling(configuration: tuple[str, dict[str, Any]], params: Any) -> tw.Optimizer:
    """Return our optimizer, to whose step a GradScaler leaves unscaling and skipping."""
    name, kwargs = configuration
    if name in FUSED:
        return ours((name, {**kwargs, "fused": True}), params)
    optimizer = ours(configuration, params)
    optimizer._step_supports_amp_scaling = True  # as in torch, these take no `fused` to ask for it
    return optimizer


def oracle(configuration: tuple[str, dict[str, Any]], params: Any) -> torch.optim.Optimizer:
    name, kwargs = configuration
    return getattr(torch.optim, name)(params, foreach=False, **kwargs)


def leaf(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a parameter with the values of `tensor` and memory of its own."""
    return tensor.detach().clone().to(dtype or tensor.dtype).requires_grad_()


def twins(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[list[Tensor]]:
    """Return the tensors as parameters, twice."""
    return [[leaf(t, dtype) for t in tensors] for _ in range(2)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers that depend on shape and seed only."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(params: Sequence[Tensor], steps: int, seed: int = 1) -> list[list[Tensor]]:
    """Return gradients for each step and parameter: noise around a mean, as in training."""
    generator = torch.Generator().manual_seed(seed)

    def draw(p: Tensor) -> Tensor:
        dtype = torch.complex128 if p.is_complex() else torch.float64
        return torch.randn(p.shape, generator=generator, dtype=dtype)

    means = [0.5 * draw(p) for p in params]
    return [[(m + draw(p)).to(p.dtype) for m, p in zip(means, params, strict=True)] for _ in range(steps)]


def give(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Set gradients that are nobody else's."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.to(param.device, param.dtype).clone()


def follow(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    steps: Sequence[Sequence[Tensor | None]],
    before: Callable[[torch.optim.Optimizer, int], None] | None = None,
) -> None:
    """Take a step for each entry of `steps`; `before(optimizer, i)` runs before the i-th."""
    for i, grads in enumerate(steps):
        give(params, grads)
        if before is not None:
            before(optimizer, i)
        optimizer.step()


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 0.0) -> None:
    """Compare in the expected dtype, relative to the largest element, so that zero is no trouble."""
    assert actual.shape == expected.shape
    actual = actual.detach().to(expected.device, expected.dtype)
    scale = expected.detach().abs().max().item() if expected.numel() else 0.0
    atol = atol or rtol * scale
    torch.testing.assert_close(actual, expected.detach(), rtol=rtol, atol=atol, equal_nan=True)


def assert_same(
    ours: torch.optim.Optimizer,
    ours_params: Sequence[Tensor],
    theirs: torch.optim.Optimizer,
    theirs_params: Sequence[Tensor],
    rtol: float = 1e-9,
) -> None:
    """Compare parameters and every tensor of state that torch has."""
    for p, q in zip(ours_params, theirs_params, strict=True):
        assert_close(p, q, rtol)
        expected = {k: v for k, v in theirs.state.get(q, {}).items() if v is not None}
        actual = ours.state.get(p, {})
        # torch's SGD with momentum 0 keeps None; ours keeps nothing. Otherwise the keys are torch's.
        assert set(actual) == set(expected) or not expected
        for key, value in expected.items():
            assert_close(actual[key], value, max(rtol, 1e-6 if key == "mu_product" else 0.0))


def assert_threads_do_not_matter(run: Callable[[], tuple[list[Tensor], tw.Optimizer]]) -> None:
    """Check that the parameters and states of a run have the same bits for 1 and 2 threads."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run())
    finally:
        torch.set_num_threads(threads)
    _assert_same_bits(*found)


def assert_resumes(
    params: list[Tensor], optimizer: tw.Optimizer, make: Callable[[list[Tensor]], tw.Optimizer]
) -> None:
    """Check that a run goes on from its checkpoint, in what `make` returns, bit for bit as without."""
    twins = [leaf(p.detach().clone(), torch.float32) for p in params]
    other = make(twins)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for who, own in ((optimizer, params), (other, twins)):
        follow(who, own, gradients(own, 3))
    _assert_same_bits((params, optimizer), (twins, other))


def _assert_same_bits(
    one: tuple[list[Tensor], tw.Optimizer], other: tuple[list[Tensor], tw.Optimizer]
) -> None:
    for p, q in zip(one[0], other[0], strict=True):
        assert torch.equal(p, q)
        mine, theirs = one[1].state[p], other[1].state[q]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def state_of(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], dtype: torch.dtype | None = None
) -> list[dict[str, Any]]:
    """Return copies of the state, parameter by parameter; slots as `dtype`, if one is given."""
    return [
        {
            key: value.detach().clone()
            if key in COUNTERS or dtype is None
            else value.detach().clone().to(dtype)
            for key, value in optimizer.state.get(p, {}).items()
        }
        for p in params
    ]


def oracle_step(
    configuration: tuple[str, dict[str, Any]],
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    states: Sequence[dict[str, Any]],
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Take one step of torch's optimizer in `dtype` from the given parameters and state."""
    copies = [leaf(p, dtype) for p in params]
    optimizer = oracle(configuration, copies)
    for copy, grad, state in zip(copies, grads, states, strict=True):
        if state:
            optimizer.state[copy] = {
                k: v.clone() if k in COUNTERS else v.clone().to(dtype) for k, v in state.items()
            }
        copy.grad = None if grad is None else grad.clone().to(dtype)
    optimizer.step()
    return [c.detach() for c in copies], [optimizer.state.get(c, {}) for c in copies]


class Net(nn.Module):
    """Packed and small, tied, frozen and unused parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 64)  # 4,096 elements: packed
        self.inner = nn.Linear(64, 96)
        self.outer = nn.Linear(96, 64)
        self.logits = nn.Linear(64, 64, bias=False)
        self.logits.weight = self.words.weight
        self.frozen = nn.Parameter(torch.ones(64), requires_grad=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        inner = self.inner(self.words(numbers) * self.frozen).tanh()
        return self.logits(self.outer(inner))


def net(dtype: torch.dtype = torch.float32) -> Net:
    """Return a `Net` with weights that are always the same."""
    model = Net()
    for i, param in enumerate(model.parameters()):
        param.data = (0.3 * rand(*param.shape, seed=i)).to(dtype)
    return model


def numbers(step: int) -> Tensor:
    """Return what a `Net` reads in a step."""
    return torch.randint(64, (16,), generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Return the loss of a `Net` in a step."""
    return model(numbers(step)).float().square().mean()


def groups_of(model: Net) -> list[dict[str, Any]]:
    """Return the parameters of a `Net` as groups of several kinds."""
    return [
        {"params": [model.words.weight, model.frozen]},
        {"params": [*model.inner.parameters(), *model.outer.parameters()], "lr": 0.003},
        {"params": list(model.unused.parameters())},
    ]
