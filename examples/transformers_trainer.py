"""A Hugging Face Trainer's model, data and collator (`pip install transformers accelerate`).

    thalweg compare examples/transformers_trainer.py

A small BERT learns to tell whether a sequence of numbers is sorted; it is made here, so nothing is
downloaded. The Trainer is any Trainer that has not trained yet.
"""

import torch
import transformers

from thalweg.lab.workload.adapters import TransformersTask


def examples(count: int, seed: int) -> list[dict[str, object]]:
    """Sequences of 4 to 8 tokens, every other one sorted."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for place in range(count):
        length = int(torch.randint(4, 9, (), generator=generator))
        tokens = torch.randint(1, 32, (length,), generator=generator)
        tokens = tokens.sort().values if place % 2 else tokens
        made.append({"input_ids": tokens.tolist(), "labels": int(bool((tokens.diff() >= 0).all()))})
    return made


def collate(batch: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    """Pads with token 0, as DataCollatorWithPadding does with a tokenizer's."""
    rows = [torch.tensor(example["input_ids"]) for example in batch]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.tensor([example["labels"] for example in batch])
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": labels}


def model_init() -> transformers.PreTrainedModel:
    """Two layers of width 32."""
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=32,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )


def compute_metrics(predictions: transformers.EvalPrediction) -> dict[str, float]:
    """Accuracy in percent."""
    return {"accuracy": 100 * float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


trainer = transformers.Trainer(
    model_init=model_init,
    args=transformers.TrainingArguments(
        output_dir="unused",
        max_steps=150,
        per_device_train_batch_size=32,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        report_to=[],
        use_cpu=True,
    ),
    data_collator=collate,
    train_dataset=examples(1000, seed=0),
    eval_dataset=examples(300, seed=1),
    compute_metrics=compute_metrics,
)

task = TransformersTask.of(
    trainer,
    test=examples(600, seed=2),
    metric="accuracy",
    unit="%",
    difference_unit="points",
    higher_is_better=True,
)
