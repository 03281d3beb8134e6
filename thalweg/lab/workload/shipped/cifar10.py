"""A residual network with batch norm on CIFAR-10 (Krizhevsky 2009).

50,000 training and 10,000 test images of 32 x 32 coloured pixels, 10 classes. The official test images
test; a tenth of the training images validates. The network is that of He et al. (2016, arXiv 1512.03385,
section 4.2) with n = 1, so 8 layers, except that its first convolution has stride 2, which makes a run four
times cheaper; shortcuts are theirs without parameters (option A). Training images are padded by 4 pixels,
cropped and mirrored at random as there.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload import data
from thalweg.lab.workload.data import MissingDataError, Remote
from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import Batch, Classification, shuffled

ARCHIVE = Remote(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    170,
)
"""The official archive."""

ADVICE = "give the archive cifar-10-python.tar.gz, or the folder cifar-10-batches-py in it, as --data PATH"

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"

SPLIT_SEED = 0
VALIDATION_SHARE = 10
"""One in so many training images validates."""

PADDING = 4
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the red, green and blue of the training images, from 0 to 1."""


class Cifar10(Classification):
    """CIFAR-10, held as bytes; see `thalweg.lab.workload.Workload`.

    Args:
        path: the archive or its unpacked folder, of which only the form is checked; by default the
            cache, into which the official archive is downloaded.
        given: options, those of `thalweg.lab.workload.shipped.options`.

    Raises:
        MissingDataError: the data are not there or damaged.
    """

    name = "cifar10"
    title = "a residual network with batch norm on CIFAR-10"
    batch_size = 128
    steps = 400
    evaluate_every = 100

    def __init__(self, path: Path | None = None, **given: Any) -> None:
        options.take(self, (), given)
        archive = data.fetch(ARCHIVE, data.cache_folder("cifar10"), ADVICE) if path is None else path
        self._source = "the official archive, checked by SHA-256" if path is None else f"read from {path}"
        self._images, self._classes, train = load(archive)
        order = np.random.default_rng(SPLIT_SEED).permutation(train)
        validation = train // VALIDATION_SHARE
        self.rows = {
            "train": order[validation:],
            "validation": order[:validation],
            "test": np.arange(train, len(self._classes)),
        }

    def model(self, seed: int) -> nn.Module:
        """75,290 parameters: ResNet-8 with 16, 32 and 64 channels."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                _Block(16, 16),
                _Block(16, 32),
                _Block(32, 64),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(64, 10),
            )

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images, float32 of shape (n, 3, 32, 32), centred and scaled, and classes, int64 of shape (n,)."""
        return _normalised(self._images[rows]), torch.from_numpy(self._classes[rows])

    def batches(self, seed: int) -> Iterator[Batch]:
        """A new random order each epoch; each image is cropped and mirrored anew."""
        generator = np.random.default_rng([seed, 1])
        for rows in shuffled(self.rows["train"], self.batch_size, self.steps, seed):
            images = augmented(self._images[rows], generator)
            yield _normalised(images), torch.from_numpy(self._classes[rows])

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        train, validation, test = (len(self.rows[part]) for part in ("train", "validation", "test"))
        return {
            "Data": f"CIFAR-10, {self._source}: coloured images of 32 x 32 pixels, 10 classes",
            "Split": f"{train:,} train, {validation:,} validation, split seed {SPLIT_SEED}; "
            f"the {test:,} official test images",
            "Model": "ResNet-8 (arXiv 1512.03385, section 4.2, n = 1, shortcuts of option A) with batch "
            "norm and stride 2 in its first convolution: 75,290 parameters, float32",
            "Training": f"batches of {self.batch_size}, {self.steps} steps "
            f"({self.steps * self.batch_size / train:.1f} epochs), mean cross-entropy; images padded by "
            f"{PADDING} pixels, cropped and mirrored at random",
            **options.facts(self, ()),
        }


class _Block(nn.Module):
    """Two convolutions and a shortcut; a wider block halves the image and pads the shortcut with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grown = outputs - inputs
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, 2 if self.grown else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.convolution1(images)))
        hidden = self.norm2(self.convolution2(hidden))
        if self.grown:
            images = functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.grown))
        return functional.relu(hidden + images)


def augmented(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The images, bytes of shape (n, 3, h, w), each moved by up to 4 pixels and one in two mirrored.

    What moves in from outside is black, as in He et al.
    """
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    top, left = generator.integers(0, 2 * PADDING + 1, size=(2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    mirrored = generator.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    cut = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2))


def load(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Images (bytes, (n, 3, 32, 32)), classes (int64, (n,)) and how many, the first, are for training.

    Args:
        path: ``cifar-10-python.tar.gz``, or the folder ``cifar-10-batches-py``, or one that holds it.

    Raises:
        MissingDataError: it is not there, damaged, or of another form.
    """
    if not path.exists():
        raise MissingDataError(f"no {str(path)!r}; {ADVICE}")
    read = _read_folder if path.is_dir() else _read_archive
    parts = [_examples(read(path, name), f"{name} in {str(path)!r}") for name in (*TRAIN_FILES, TEST_FILE)]
    train = sum(len(classes) for _, classes in parts[:-1])
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), train


def loads(content: bytes) -> Any:
    """Unpickles dictionaries, lists, numbers, text and NumPy arrays of numbers, and nothing else.

    Raises:
        pickle.UnpicklingError: the pickle asks for anything else, which is not run.
    """
    # Python 2 wrote these files: its strings are bytes.
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
    ALLOWED = (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # NumPy 1 called the package numpy.core; under its old name NumPy 2 warns.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_folder(folder: Path, name: str) -> bytes:
    inner = folder / "cifar-10-batches-py"
    try:
        return ((inner if inner.is_dir() else folder) / name).read_bytes()
    except OSError as error:
        raise MissingDataError(f"cannot read {name} in {str(folder)!r}: {error.strerror}; {ADVICE}") from None


def _read_archive(path: Path, name: str) -> bytes:
    try:
        with tarfile.open(path) as archive:
            member = archive.extractfile(f"cifar-10-batches-py/{name}")
            if member is None:
                raise KeyError(name)
            return member.read()
    except KeyError:
        raise MissingDataError(f"no cifar-10-batches-py/{name} in {str(path)!r}; {ADVICE}") from None
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        reason = str(error).partition(":\n")[0]
        raise MissingDataError(f"{str(path)!r} is not a whole archive: {reason}; {ADVICE}") from None


def _examples(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and classes in one pickled batch."""
    try:
        batch = loads(content)
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        classes = np.asarray(batch[b"labels"], np.int64)
    except Exception as error:  # a damaged pickle may raise anything
        raise MissingDataError(
            f"{where} is not a batch of CIFAR-10: {type(error).__name__}: {error}"
        ) from None
    if classes.shape != images.shape[:1] or not ((classes >= 0) & (classes < 10)).all():
        raise MissingDataError(
            f"{where} is not a batch of CIFAR-10: {len(images)} images, {classes.shape} classes"
        )
    return images, classes


def _normalised(images: np.ndarray) -> Tensor:
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (torch.from_numpy(images).float() / 255 - mean) / deviation
