import numpy as np
import torch

from thalweg.lab.workload.shipped import find
from thalweg.lab.workload.shipped.digits import TEST, TRAIN, VALIDATION

DIGITS = find("digits")


def test_parts_share_no_image_and_leave_none_out():
    rows = np.concatenate(list(DIGITS.rows.values()))
    assert sorted(rows) == list(range(1797))
    assert [len(part) for part in DIGITS.rows.values()] == [TRAIN, VALIDATION, TEST]


def test_parts_have_equal_shares_of_every_class():
    shares = [
        np.bincount(DIGITS.batch(rows)[1].numpy(), minlength=10) / len(rows) for rows in DIGITS.rows.values()
    ]
    assert np.ptp(shares, axis=0).max() < 0.005


def test_one_epoch_shows_no_image_twice():
    epoch = list(DIGITS.batches(3))[: DIGITS.evaluate_every]
    images = torch.cat([images for images, _ in epoch])
    train = DIGITS.batch(DIGITS.rows["train"])[0]
    distinct = len(torch.unique(train.flatten(1), dim=0))
    assert len(images) == DIGITS.batch_size * DIGITS.evaluate_every
    assert len(torch.unique(images.flatten(1), dim=0)) >= len(images) - (TRAIN - distinct)


def test_it_gives_as_many_batches_as_it_states():
    assert sum(1 for _ in DIGITS.batches(0)) == DIGITS.steps


def test_accuracy_is_in_percent():
    class Oracle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = 0
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            classes = DIGITS.batch(DIGITS.rows["test"])[1][self.seen :][: len(images)]
            self.seen += len(images)
            return torch.nn.functional.one_hot(classes, 10).float() * 50

    assert DIGITS.evaluate(Oracle(), "test").metric == 100.0
