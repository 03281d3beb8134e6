"""Hessians of losses: against dense ones of `torch.func`, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from thalweg.lab.landscape import Hessian, adaptive_sharpness, flat, sharpness, trace

torch64 = torch.float64


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(torch64)


def batches(count, size=6):
    generator = torch.Generator().manual_seed(9)
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=torch64),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def losses_of(model, data):
    return [lambda x=x, y=y: nn.functional.cross_entropy(model(x), y) for x, y in data]


def dense(model, data):
    """The Hessian of the mean loss, (n, n), in the order of the parameters."""
    named = dict(model.named_parameters())
    names, shapes = list(named), [p.shape for p in named.values()]
    sizes = [p.numel() for p in named.values()]

    def loss(vector):
        values = [piece.reshape(s) for piece, s in zip(vector.split(sizes), shapes, strict=True)]
        weights = dict(zip(names, values, strict=True))
        parts = [nn.functional.cross_entropy(functional_call(model, weights, (x,)), y) for x, y in data]
        return torch.stack(parts).mean()

    return hessian(loss)(flat(list(named.values())))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_products_are_those_of_the_dense_hessian(keep, count):
    model, data = net(), batches(count)
    found = Hessian(list(model.parameters()), losses_of(model, data), keep=keep)
    matrix = dense(model, data)
    for seed in range(3):
        vector = torch.randn(found.size, generator=torch.Generator().manual_seed(seed), dtype=torch64)
        torch.testing.assert_close(found(vector), matrix @ vector, atol=1e-12, rtol=1e-10)
    assert found.products == 3
    assert all(p.grad is None for p in model.parameters())


def test_sharpness_trace_and_adaptive_sharpness_of_a_net():
    model, data = net(), batches(2)
    params, losses, matrix = list(model.parameters()), losses_of(model, data), dense(model, data)
    size = flat(params).abs()
    assert sharpness(params, losses, products=43, tolerance=0).value == pytest.approx(
        float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-9
    )
    adaptive = torch.linalg.eigvalsh(size[:, None] * matrix * size)[-1]
    assert adaptive_sharpness(params, losses, products=43, tolerance=0).value == pytest.approx(
        float(adaptive), rel=1e-9
    )
    found = trace(params, losses, probes=200)
    assert abs(found.mean - float(matrix.trace())) < 4 * found.standard_error
    scale, decay = torch.linspace(0.5, 2, 43, dtype=torch64), torch.linspace(0, 1, 43, dtype=torch64)
    scaled = torch.linalg.eigvalsh(scale[:, None] * (matrix + torch.diag(decay)) * scale)[-1]
    found_scaled = Hessian(params, losses).sharpness(scale=scale, decay=decay, products=43, tolerance=0)
    assert found_scaled.value == pytest.approx(float(scaled), rel=1e-9)


def test_few_products_come_with_a_true_bound():
    model, data = net(), batches(2)
    values = torch.linalg.eigvalsh(dense(model, data))
    found = sharpness(list(model.parameters()), losses_of(model, data), products=6, tolerance=0.01)
    assert found.products <= 6
    assert float((values - found.value).abs().min()) <= found.residual
    assert found.value <= float(values[-1]) + 1e-12


def test_a_quadratic_has_the_hessian_that_it_was_made_with():
    curvature = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch64))
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch64, requires_grad=True)
    loss = lambda: weights @ curvature @ weights / 2  # noqa: E731
    assert sharpness([weights], loss, products=3).value == pytest.approx(9)
    assert trace([weights], loss, probes=2).mean == pytest.approx(14)
    # |W| H |W| is diag(1, 4 * 4, 9 / 4).
    assert adaptive_sharpness([weights], loss, products=3).value == pytest.approx(16)


def test_a_scaling_that_leaves_the_model_as_it_is_leaves_the_adaptive_sharpness():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).to(torch64)
    losses, params = losses_of(model, batches(1, 20)), list(model.parameters())
    plain, adaptive = sharpness(params, losses), adaptive_sharpness(params, losses, products=60, tolerance=0)
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[2].weight.div_(10)
    assert sharpness(params, losses).value > 2 * plain.value
    assert adaptive_sharpness(params, losses, products=60, tolerance=0).value == pytest.approx(
        adaptive.value, rel=1e-9
    )


def test_parameters_without_curvature_or_gradient():
    a, b = torch.ones(2, dtype=torch64, requires_grad=True), torch.ones(2, dtype=torch64, requires_grad=True)
    frozen = torch.ones(2, dtype=torch64)
    assert sharpness([a, b, frozen], lambda: 3 * (a**2).sum()).value == pytest.approx(6)
    assert sharpness([a], lambda: (2 * a).sum()).value == 0
    with pytest.raises(ValueError, match="needs a gradient"):
        sharpness([frozen], lambda: frozen.sum())


def test_what_is_random_in_a_loss_is_drawn_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Tanh(), nn.Linear(50, 3)).to(torch64)
    (x, y), params = batches(1)[0], list(model.parameters())
    found = Hessian(params, lambda: nn.functional.cross_entropy(model(x), y))
    vector = torch.ones(found.size, dtype=torch64)
    assert torch.equal(found(vector), found(vector))
    assert found.sharpness().value == found.sharpness().value


@pytest.mark.parametrize("kind", ["attention", "lstm", "gru"])
def test_fused_layers_are_taken_as_plain_operations(kind):
    torch.manual_seed(0)
    x = torch.randn(3, 7, 8)
    layer = {
        "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        "lstm": lambda: nn.LSTM(8, 4, batch_first=True),
        "gru": lambda: nn.GRU(8, 4, batch_first=True),
    }[kind]()

    def loss(layer=layer, x=x):
        found = layer(x)
        return (found if isinstance(found, torch.Tensor) else found[0]).square().mean()

    found = Hessian(list(layer.parameters()), loss)
    vector = torch.randn(found.size, generator=torch.Generator().manual_seed(1))
    layer, x = layer.double(), x.double()
    params = list(layer.parameters())
    exact = Hessian(params, lambda: loss(layer, x))(vector.double())

    # The difference of gradients on both sides, far from the product's own way.
    def gradient_at(step):
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(start + step * vector.double(), params)
        return flat(torch.autograd.grad(loss(layer, x), params))

    start = flat(params).clone()
    torch.testing.assert_close(exact, (gradient_at(1e-5) - gradient_at(-1e-5)) / 2e-5, atol=1e-7, rtol=1e-5)


def test_a_backward_pass_of_ones_own_that_is_none_is_noticed():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return (x * y).sum()

        @staticmethod
        def backward(ctx, out):
            x, y = ctx.saved_tensors
            return out * y, out * x.detach()

    a = torch.arange(1.0, 9.0, dtype=torch64, requires_grad=True)
    b = torch.ones(8, dtype=torch64, requires_grad=True)
    with pytest.raises(ValueError, match="symmetric"):
        sharpness([a, b], lambda: Wrong.apply(a, b))


def test_weights_too_coarse_for_products_are_told():
    weights = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(ValueError, match="bfloat16"):
        sharpness([weights], lambda: (weights**2).sum())
