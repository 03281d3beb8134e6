"""Accelerate: skipped steps, clipping, accumulation, saved states."""

from __future__ import annotations

import pytest
import torch
from training import assert_equal, assert_trained_alike, batches, loss_of, network

import thalweg as tw

accelerate = pytest.importorskip("accelerate", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")

LIBRARIES = pytest.mark.parametrize("library", [tw, torch.optim])


@pytest.fixture(autouse=True)
def fresh():
    """Forget the settings that accelerate keeps for a whole process."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepared(library, accumulate=1, precision="no", **kwargs):
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=precision
    )
    model = network()
    optimizer = library.AdamW(model.parameters(), lr=0.01, **kwargs)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return accelerator, *accelerator.prepare(model, optimizer, batches(), schedule)


def train(accelerator, model, optimizer, data, schedule, epochs=1):
    for _ in range(epochs):
        for batch in data:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return accelerator.unwrap_model(model)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_training(accumulate, precision):
    mine, theirs = (train(*prepared(lib, accumulate, precision), epochs=2) for lib in (tw, torch.optim))
    assert_trained_alike(mine, theirs, rtol=1e-5 if precision == "no" else 1e-2)


def scaled_training(library, overflow_at, **kwargs):
    """Train under a GradScaler, of which accelerate makes none on a CPU; return what was seen of it."""
    accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = library.SGD(model.parameters(), lr=0.1, **kwargs)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    schedule = accelerate.scheduler.AcceleratedScheduler(decay, wrapped)
    skipped, rates = [], []
    for i, batch in enumerate(batches()):
        loss = loss_of(model, batch) * (float("inf") if i in overflow_at else 1.0)
        scaler.scale(loss).backward()
        wrapped.step()
        schedule.step()
        wrapped.zero_grad()
        skipped.append(wrapped.step_was_skipped)
        rates.append(optimizer.param_groups[0]["lr"])
    return model, skipped, rates


def test_a_skipped_step_is_seen_and_the_schedule_waits():
    mine, skipped, rates = scaled_training(tw, {0, 3})
    theirs, *expected = scaled_training(torch.optim, {0, 3})
    assert_trained_alike(mine, theirs)
    assert [skipped, rates] == expected
    assert skipped == [True, False, False, True, False, False]
    assert rates == [0.1, 0.05, 0.025, 0.025, 0.0125, 0.00625]


@LIBRARIES
def test_a_step_that_a_fused_optimizer_skips_is_not_seen(library):
    _, skipped, rates = scaled_training(library, {3}, fused=True)
    assert not any(skipped)
    assert rates[3] == rates[2] / 2


@pytest.mark.parametrize("storage", [{}, {"state": "int8"}], ids=str)
def test_a_saved_state_goes_on(storage, tmp_path):
    straight = train(*prepared(tw, **storage), epochs=4)
    first = prepared(tw, **storage)
    train(*first, epochs=2)
    first[0].save_state(str(tmp_path))
    second = prepared(tw, **storage)
    second[0].load_state(str(tmp_path))
    assert_equal(train(*second, epochs=2), straight)
