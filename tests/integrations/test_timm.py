"""timm: its groups, its factory, its schedules, its GradScaler."""

from __future__ import annotations

import pytest
import torch
from support import assert_close

import thalweg as tw

timm = pytest.importorskip("timm", exc_type=ImportError)
optim = pytest.importorskip("timm.optim", exc_type=ImportError)
scheduler = pytest.importorskip("timm.scheduler", exc_type=ImportError)

OPTIMIZERS = pytest.mark.parametrize(
    ("name", "kwargs"),
    [("AdamW", {"lr": 0.01}), ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True})],
    ids=["AdamW", "SGD"],
)


def vision_transformer():
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )
    return model.double()  # the keys' biases have a gradient of rounding noise, which Adam scales up


def losses(model, steps=6):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (4,), generator=generator)
        yield torch.nn.functional.cross_entropy(model(x), y)


def trained(model, optimizer, schedule=None):
    for i, loss in enumerate(losses(model)):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step(i + 1)
    return model


def assert_trained_alike(model, other, rtol=1e-7):
    for (name, p), q, begun in zip(
        model.named_parameters(), other.parameters(), vision_transformer().parameters(), strict=True
    ):
        assert not torch.equal(q, begun), name
        assert_close(p, q, rtol)


def decayed(model):
    return optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())


def decayed_by_layer(model):
    return optim.param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7)


SCHEDULES = {
    "cosine": lambda o: scheduler.CosineLRScheduler(o, 6, warmup_t=2, warmup_lr_init=1e-4),
    "step": lambda o: scheduler.StepLRScheduler(o, decay_t=2, decay_rate=0.5),
    "poly": lambda o: scheduler.PolyLRScheduler(o, 6),
    "tanh": lambda o: scheduler.TanhLRScheduler(o, 6),
    "multistep": lambda o: scheduler.MultiStepLRScheduler(o, [2, 4]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("groups_of", [decayed, decayed_by_layer])
@OPTIMIZERS
def test_its_groups_and_schedules(name, kwargs, groups_of, schedule):
    def run(library):
        model = vision_transformer()
        optimizer = getattr(library, name)(groups_of(model), **kwargs)
        trained(model, optimizer, SCHEDULES[schedule](optimizer))
        return model, [group["lr"] for group in optimizer.param_groups]

    (mine, rates), (theirs, expected) = run(tw), run(torch.optim)
    assert rates == expected
    assert_trained_alike(mine, theirs)


def factory(opt, **kwargs):
    model = vision_transformer()
    optimizer = optim.create_optimizer_v2(model, opt, lr=0.01, weight_decay=0.05, **kwargs)
    return model, optimizer


@pytest.fixture
def registered():
    """Register our AdamW; a name with an underscore would be taken for a wrapper's and its optimizer's."""
    info = optim.OptimInfo(name="thalwegadamw", opt_class=tw.AdamW, has_betas=True)
    optim._optim_factory.default_registry.register(info)
    yield info.name
    del optim._optim_factory.default_registry._optimizers[info.name]


@pytest.mark.parametrize("prefix", ["", "lookahead_"])
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_its_factory_makes_a_registered_optimizer(registered, layer_decay, prefix):
    kwargs = {"layer_decay": layer_decay, "betas": (0.8, 0.99)}
    mine = factory(prefix + registered, **kwargs)
    assert isinstance(getattr(mine[1], "_base_optimizer", mine[1]), tw.AdamW)
    assert_trained_alike(trained(*mine), trained(*factory(prefix + "adamw", **kwargs)))


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_its_scaler_clips(mode):
    def run(library):
        model = vision_transformer()
        optimizer = library.SGD(model.parameters(), lr=0.1)
        scaler = timm.utils.NativeScaler(device="cpu")
        for loss in losses(model):
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=0.1, clip_mode=mode, parameters=model.parameters())
        return model

    assert_trained_alike(run(tw), run(torch.optim))
