"""Hugging Face's Trainer, with a model of a few thousand weights that is made, not loaded."""

from __future__ import annotations

import pytest
import torch
from support import assert_close

import thalweg as tw

transformers = pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("accelerate", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")


def language_model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
    )
    return transformers.LlamaForCausalLM(config)


def texts(count=48):
    tokens = torch.randint(32, (count, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in tokens]


def arguments(folder, **kwargs):
    given = {"save_strategy": "no", "max_steps": 8, **kwargs}
    return transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        weight_decay=0.1,
        max_grad_norm=0.5,
        lr_scheduler_type="cosine",
        report_to=[],
        disable_tqdm=True,
        **given,
    )


def made(model, library, **storage):
    """Return optimizer and schedule as they are passed in."""
    optimizer = library.AdamW(model.parameters(), lr=0.01, **storage)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)


def trained(folder, library, storage=None, resume=None, **kwargs):
    model = language_model()
    trainer = transformers.Trainer(
        model,
        arguments(folder, **kwargs),
        train_dataset=texts(),
        optimizers=made(model, library, **(storage or {})),
    )
    trainer.train(resume_from_checkpoint=resume)
    return model


def assert_trained_alike(model, other, rtol=1e-4):
    begun = language_model()
    for p, q, old in zip(model.parameters(), other.parameters(), begun.parameters(), strict=True):
        assert not torch.equal(q, old)
        assert_close(p, q, rtol)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_optimizer_that_is_passed_in(accumulate, bf16, tmp_path):
    kwargs = {"gradient_accumulation_steps": accumulate, "bf16": bf16}
    mine, theirs = (trained(tmp_path, library, **kwargs) for library in (tw, torch.optim))
    assert_trained_alike(mine, theirs, rtol=3e-2 if bf16 else 1e-4)


def test_a_class_that_is_passed_in(tmp_path):
    # The Trainer then makes the groups, without decay for biases and norms.
    def run(library):
        model = language_model()
        chosen = library.AdamW, {"lr": 0.01, "betas": (0.8, 0.99)}
        trainer = transformers.Trainer(
            model, arguments(tmp_path), train_dataset=texts(), optimizer_cls_and_kwargs=chosen
        )
        trainer.train()
        assert len(trainer.optimizer.param_groups) == 2
        return model

    assert_trained_alike(run(tw), run(torch.optim))


@pytest.mark.parametrize("storage", [{}, {"state": "int8"}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(storage, tmp_path):
    kwargs = {"save_strategy": "steps", "save_steps": 4}
    straight = trained(tmp_path, tw, storage, **kwargs)
    resumed = trained(tmp_path, tw, storage, str(tmp_path / "checkpoint-4"), **kwargs)
    for p, q in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("first", "then"), [(torch.optim, tw), (tw, torch.optim)], ids=["to us", "to torch"])
def test_a_checkpoint_goes_on_in_the_other(first, then, tmp_path):
    kwargs = {"save_strategy": "steps", "save_steps": 4}
    straight = trained(tmp_path / "straight", torch.optim, **kwargs)
    trained(tmp_path / "first", first, **kwargs)
    resumed = trained(tmp_path / "then", then, None, str(tmp_path / "first" / "checkpoint-4"), **kwargs)
    assert_trained_alike(resumed, straight)
