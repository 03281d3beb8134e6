import hashlib

import numpy as np
import torch

from thalweg.lab.workloads import find
from thalweg.lab.workloads.digits import BATCH_SIZE, TEST, TRAIN, VALIDATION

DIGITS = find("digits")


def digest(tensors) -> str:
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()


def test_parts_share_no_image_and_leave_none_out():
    rows = np.concatenate(list(DIGITS.rows.values()))
    assert sorted(rows) == list(range(1797))
    assert [len(part) for part in DIGITS.rows.values()] == [TRAIN, VALIDATION, TEST]


def test_parts_have_equal_shares_of_every_class():
    shares = [
        np.bincount(DIGITS._batch(rows)[1].numpy(), minlength=10) / len(rows) for rows in DIGITS.rows.values()
    ]
    assert np.ptp(shares, axis=0).max() < 0.005


def test_equal_seeds_give_equal_weights_and_equal_order():
    for seed in (0, 1):
        first, second = DIGITS.model(seed), DIGITS.model(seed)
        assert digest(first.parameters()) == digest(second.parameters())
        orders = [digest(t for batch in DIGITS.batches(seed) for t in batch) for _ in range(2)]
        assert orders[0] == orders[1]


def test_other_seeds_give_other_weights_and_another_order():
    assert digest(DIGITS.model(0).parameters()) != digest(DIGITS.model(1).parameters())
    orders = [digest(t for batch in DIGITS.batches(seed) for t in batch) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_one_epoch_shows_no_image_twice():
    epoch = list(DIGITS.batches(3))[: DIGITS.evaluate_every]
    images = torch.cat([images for images, _ in epoch])
    train = DIGITS._batch(DIGITS.rows["train"])[0]
    distinct = len(torch.unique(train.flatten(1), dim=0))
    assert len(images) == BATCH_SIZE * DIGITS.evaluate_every
    assert len(torch.unique(images.flatten(1), dim=0)) >= len(images) - (TRAIN - distinct)


def test_it_gives_as_many_batches_as_it_states():
    assert sum(1 for _ in DIGITS.batches(0)) == DIGITS.steps


def test_the_model_has_the_parameters_that_the_report_states():
    count = sum(parameter.numel() for parameter in DIGITS.model(0).parameters())
    assert f"{count:,} parameters" in DIGITS.facts()["Model"]


def test_accuracy_is_in_percent():
    class Oracle(torch.nn.Module):
        def forward(self, images):
            classes = DIGITS._batch(DIGITS.rows["test"])[1]
            return torch.nn.functional.one_hot(classes, 10).float() * 50

    assert DIGITS.evaluate(Oracle(), "test").metric == 100.0
