"""Lightning's Trainer and Fabric: precision, clipping, accumulation, checkpoints, weight averaging."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from training import assert_equal, assert_trained_alike, batches, loss_of, network

import thalweg as tw

lightning = pytest.importorskip("lightning.pytorch", exc_type=ImportError)
fabric = pytest.importorskip("lightning.fabric", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")


def in_precision(package, precision):
    """Return arguments for a precision; by a plugin for float16, of which a CPU's trainer makes bfloat16."""
    if precision == "16-mixed":
        return {"plugins": [package.plugins.MixedPrecision(precision, "cpu")]}
    return {"precision": precision}


PRECISIONS = pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
SGD = ("SGD", {"lr": 0.01, "momentum": 0.9})
ADAMW = ("AdamW", {"lr": 0.01})
BOTH = pytest.mark.parametrize("configuration", [SGD, ADAMW], ids=["SGD", "AdamW"])


class Module(lightning.LightningModule):
    def __init__(self, library, configuration, schedule=False):
        super().__init__()
        self.network = network()
        name, kwargs = configuration
        self._make = partial(getattr(library, name), **kwargs)
        self._schedule = schedule

    def training_step(self, batch, _):
        return loss_of(self.network, batch)

    def configure_optimizers(self):
        optimizer = self._make(self.parameters())
        if not self._schedule:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Manual(Module):
    """Clips and steps by hand."""

    automatic_optimization = False

    def training_step(self, batch, _):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss_of(self.network, batch))
        optimizer.step()


def trainer(epochs=2, precision="32-true", **kwargs):
    kwargs |= in_precision(lightning, precision)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_model_summary=False, **{**quiet, **kwargs}
    )


def fitted(module, epochs=2, ckpt_path=None, **kwargs):
    """Return a trained network, and the scale that its GradScaler came to."""
    run = trainer(epochs, **kwargs)
    run.fit(module, batches(), ckpt_path=ckpt_path)
    scaler = getattr(run.precision_plugin, "scaler", None)
    return module.network, scaler and scaler.get_scale()


@PRECISIONS
@BOTH
@pytest.mark.parametrize("accumulate", [1, 3])
def test_training(configuration, precision, accumulate):
    kwargs = {"precision": precision, "accumulate_grad_batches": accumulate}
    mine, scale = fitted(Module(tw, configuration), **kwargs)
    theirs, expected = fitted(Module(torch.optim, configuration), **kwargs)
    assert_trained_alike(mine, theirs, rtol=1e-5 if precision == "32-true" else 1e-2)
    assert scale == expected
    assert precision != "16-mixed" or scale < 2.0**16  # some steps have overflowed


@PRECISIONS
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped(algorithm, precision):
    # SGD's, as Adam's steps do not depend on the size of gradients.
    kwargs = {"precision": precision, "gradient_clip_val": 0.1, "gradient_clip_algorithm": algorithm}
    mine, _ = fitted(Module(tw, SGD), **kwargs)
    theirs, _ = fitted(Module(torch.optim, SGD), **kwargs)
    free, _ = fitted(Module(torch.optim, SGD), precision=precision)
    assert_trained_alike(mine, theirs, rtol=1e-5 if precision == "32-true" else 1e-2)
    with pytest.raises(AssertionError):
        assert_trained_alike(mine, free, rtol=0.1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("library", [tw, torch.optim])
def test_a_fused_step_is_not_clipped_for(library, precision):
    configuration = ("AdamW", {"lr": 0.01, "fused": True})
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fitted(Module(library, configuration), precision=precision, gradient_clip_val=0.1)


def test_a_fused_step_unscales():
    configuration = ("AdamW", {"lr": 0.01, "fused": True})
    mine, scale = fitted(Module(tw, configuration), precision="16-mixed")
    theirs, expected = fitted(Module(torch.optim, configuration), precision="16-mixed")
    assert_trained_alike(mine, theirs, rtol=1e-2)
    assert scale == expected < 2.0**16


@PRECISIONS
def test_manual_optimization(precision):
    mine, _ = fitted(Manual(tw, ADAMW), precision=precision)
    theirs, _ = fitted(Manual(torch.optim, ADAMW), precision=precision)
    assert_trained_alike(mine, theirs, rtol=1e-5 if precision == "32-true" else 1e-2)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("storage", [{}, {"state": "int8"}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(storage, precision, tmp_path):
    configuration = ("AdamW", {"lr": 0.01, **storage})
    straight, _ = fitted(Module(tw, configuration, schedule=True), 4, precision=precision)
    half = trainer(2, precision=precision)
    half.fit(Module(tw, configuration, schedule=True), batches())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(
        Module(tw, configuration, schedule=True), 4, tmp_path / "half.ckpt", precision=precision
    )
    assert_equal(resumed, straight)


@pytest.mark.parametrize(("first", "then"), [(torch.optim, tw), (tw, torch.optim)], ids=["to us", "to torch"])
def test_a_checkpoint_goes_on_in_the_other(first, then, tmp_path):
    straight, _ = fitted(Module(torch.optim, ADAMW), 4)
    half = trainer(2)
    half.fit(Module(first, ADAMW), batches())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(Module(then, ADAMW), 4, tmp_path / "half.ckpt")
    assert_trained_alike(resumed, straight)


@BOTH
def test_stochastic_weight_averaging(configuration):
    def averaged(library):
        callback = lightning.callbacks.StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=1)
        return fitted(Module(library, configuration), 4, callbacks=[callback])[0]

    assert_trained_alike(averaged(tw), averaged(torch.optim))


def fabric_trained(library, precision, clip, fused=None):
    run = fabric.Fabric(accelerator="cpu", **in_precision(fabric, precision))
    model = network()
    model, optimizer = run.setup(model, library.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=fused))
    for batch in run.setup_dataloaders(batches()):
        optimizer.zero_grad()
        run.backward(loss_of(model, batch))
        run.clip_gradients(model, optimizer, **clip)
        optimizer.step()
    return model, run._precision.state_dict().get("scale")


@PRECISIONS
@pytest.mark.parametrize("clip", [{"max_norm": 0.1, "error_if_nonfinite": False}, {"clip_val": 0.1}], ids=str)
def test_fabric_clips(clip, precision):
    (mine, scale), (theirs, expected) = (fabric_trained(lib, precision, clip) for lib in (tw, torch.optim))
    assert scale == expected
    assert precision != "16-mixed" or scale < 2.0**16  # some steps have overflowed
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("library", [tw, torch.optim])
def test_fabric_does_not_clip_for_a_fused_step(library):
    with pytest.raises(NotImplementedError, match="handling the unscaling"):
        fabric_trained(library, "16-mixed", {"clip_val": 0.1}, fused=True)
