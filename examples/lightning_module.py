"""A LightningModule with its DataModule, compared as it is (`pip install lightning`).

    thalweg compare examples/lightning_module.py

The module and the data module are those of any Lightning project; the last lines make them a task.
"""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from thalweg.lab.workload.adapters import LightningTask


class Digits(lightning.LightningDataModule):
    """scikit-learn's digits in three parts."""

    def setup(self, stage: str) -> None:
        """Called by Lightning, and by the lab."""
        images, classes = load_digits(return_X_y=True)
        order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
        inputs, targets = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(classes)[order]
        parts = zip(inputs.split([797, 400, 600]), targets.split([797, 400, 600]), strict=True)
        self.train, self.val, self.test = (TensorDataset(*part) for part in parts)

    def train_dataloader(self) -> DataLoader:
        """Shuffled by torch's generator, which the lab seeds."""
        return DataLoader(self.train, batch_size=32, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """The part to choose on."""
        return DataLoader(self.val, batch_size=200)

    def test_dataloader(self) -> DataLoader:
        """The part to report on."""
        return DataLoader(self.test, batch_size=200)


class Classifier(lightning.LightningModule):
    """A small network; `configure_optimizers` is what the comparison takes the place of."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        """The loss of a batch."""
        inputs, targets = batch
        loss = functional.cross_entropy(self.network(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        """What is logged here is what is compared."""
        self._evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        """The same of the test part."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch, part):
        inputs, targets = batch
        logits = self.network(inputs)
        accuracy = 100 * (logits.argmax(dim=1) == targets).float().mean()
        self.log_dict({f"{part}_loss": functional.cross_entropy(logits, targets), f"{part}_acc": accuracy})


task = LightningTask(
    Classifier,
    Digits,
    steps=240,
    batch_size=32,
    metric="val_acc",
    unit="%",
    difference_unit="points",
    higher_is_better=True,
)
