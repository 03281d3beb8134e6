"""A convolutional network on Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

60,000 training and 10,000 test images of 28 x 28 grey pixels, 10 classes of clothing. The official test
images test; 5,000 of the training images validate.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.workload import data
from thalweg.lab.workload.data import MissingDataError, Remote
from thalweg.lab.workload.shipped import options
from thalweg.lab.workload.shipped.classification import OPTIONS, Classification, parameters

CHANNELS = (16, 32, 64)
"""Of the two convolutions, and the hidden units of the linear layer after them."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package ``dataset-fashion-mnist`` puts the files."""

ADVICE = "install Debian's dataset-fashion-mnist, or give a folder with the four files as --data PATH"

REVISION = "b2617bb6d3ffa2e429640350f613e3291e10b141"
OFFICIAL = f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/{REVISION}/data/fashion"

FILES = {
    "train-images-idx3-ubyte": Remote(
        "train-images-idx3-ubyte.gz",
        f"{OFFICIAL}/train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        26.4,
    ),
    "train-labels-idx1-ubyte": Remote(
        "train-labels-idx1-ubyte.gz",
        f"{OFFICIAL}/train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        0.03,
    ),
    "t10k-images-idx3-ubyte": Remote(
        "t10k-images-idx3-ubyte.gz",
        f"{OFFICIAL}/t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        4.4,
    ),
    "t10k-labels-idx1-ubyte": Remote(
        "t10k-labels-idx1-ubyte.gz",
        f"{OFFICIAL}/t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        0.005,
    ),
}
"""The official files by their names without ``.gz``."""

CONTENT = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the files unpacked. Debian packs them anew, and MNIST's files have the same names."""

SPLIT_SEED = 0
TRAIN, VALIDATION, TEST = 55_000, 5_000, 10_000


class FashionMnist(Classification):
    """Fashion-MNIST, held as bytes; see `thalweg.lab.workload.Workload`.

    Args:
        path: a folder with the four idx files, packed with gzip or not; by default that of the Debian
            package where it is installed, else the cache, into which they are downloaded.
        given: options: `width`, by which the channels and the hidden units are multiplied; `norm`, batch norm
            after each convolution in place of its bias; and those of `Classification` (`examples=2000` trains
            on so many images) and `thalweg.lab.workload.shipped.options`.

    Raises:
        MissingDataError: the data are not there or not those of Fashion-MNIST.
    """

    name = "fashion-mnist"
    title = "a convolutional network on Fashion-MNIST"
    batch_size = 64
    steps = 1200
    evaluate_every = 240
    width: int = 1
    norm: bool = False

    def __init__(self, path: Path | None = None, **given: Any) -> None:
        self.taken(given, ("width", "norm"))
        options.count("width", self.width)
        images, classes = [], []
        for part in ("train", "t10k"):
            images.append(_read(f"{part}-images-idx3-ubyte", path))
            classes.append(_read(f"{part}-labels-idx1-ubyte", path))
        self._images = np.concatenate(images)[:, None]
        self._classes = np.concatenate(classes).astype(np.int64)
        order = np.random.default_rng(SPLIT_SEED).permutation(TRAIN + VALIDATION)
        self.rows = {
            "train": order[:TRAIN],
            "validation": order[TRAIN:],
            "test": TRAIN + VALIDATION + np.arange(TEST),
        }

    def model(self, seed: int) -> nn.Module:
        """105,866 parameters: 3 x 3 convolutions of 16 and 32 channels and stride 2, two linear layers."""
        first, second, hidden = (size * self.width for size in CHANNELS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                *self._convolution(1, first),
                *self._convolution(first, second),
                nn.Flatten(),
                nn.Linear(49 * second, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 10),
            )

    def _convolution(self, inputs: int, outputs: int) -> list[nn.Module]:
        """One that halves the image, with what follows it."""
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=not self.norm)
        return [convolution, *([nn.BatchNorm2d(outputs)] if self.norm else []), nn.ReLU()]

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images, float32 of shape (n, 1, 28, 28) from 0 to 1, and classes, int64 of shape (n,)."""
        images = torch.from_numpy(self._images[rows]).float() / 255
        return images, torch.from_numpy(self._classes[rows])

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        first, second, hidden = (size * self.width for size in CHANNELS)
        norm = ", batch norm" if self.norm else ""
        epochs = self.steps * self.batch_size / len(self.training_rows())
        return {
            "Data": "Fashion-MNIST (arXiv 1708.07747), content checked by SHA-256: "
            "70,000 grey images of 28 x 28 pixels, 10 classes",
            "Split": f"{TRAIN:,} train, {VALIDATION:,} validation, split seed {SPLIT_SEED}; "
            f"the {TEST:,} official test images",
            "Model": f"3 x 3 convolutions with {first} and {second} channels, each with stride 2{norm} and "
            f"ReLU, then linear layers of {hidden} (ReLU) and 10: {parameters(self.model(0)):,} parameters, "
            "float32",
            "Training": f"batches of {self.batch_size}, {self.steps:,} steps "
            f"({epochs:.1f} epochs), mean cross-entropy, no augmentation",
            **options.facts(self, ("width", "norm", *OPTIONS)),
        }


def read_idx(content: bytes, where: str) -> np.ndarray:
    """The array in an idx file of unsigned bytes: big-endian magic number 0x08nn, n sizes, the elements.

    Raises:
        MissingDataError: it is not such a file, or cut short; the message begins with `where`.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise MissingDataError(f"{where} is not an idx file of unsigned bytes")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise MissingDataError(f"{where} is cut short: {len(content)} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise MissingDataError(f"{where} has {len(content):,} bytes, not the {expected:,} it states")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read(name: str, folder: Path | None) -> np.ndarray:
    path = _locate(name, folder)
    content = data.unpacked(path)
    array = read_idx(content, repr(str(path)))
    if data.sha256(content) != CONTENT[name]:
        raise MissingDataError(f"{str(path)!r} does not hold Fashion-MNIST: its checksum differs; {ADVICE}")
    return array


def _locate(name: str, folder: Path | None) -> Path:
    for place in [DEBIAN] if folder is None else [folder]:
        for path in (place / f"{name}.gz", place / name):
            if path.is_file():
                return path
    if folder is not None:
        raise MissingDataError(
            f"--data: no {name}.gz in {str(folder)!r}; it takes a folder with the four files"
        )
    return data.fetch(FILES[name], data.cache_folder("fashion-mnist"), ADVICE)
