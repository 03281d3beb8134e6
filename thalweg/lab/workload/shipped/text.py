"""A transformer language model on the source text of Python's own standard library.

The text comes with the interpreter. Words are identifiers, numbers, single signs, and line breaks with the
indentation after them; the 5,000 most frequent in the training files make the vocabulary and all others are
one unknown word. With so many words most are rare, which is what separates Adam from SGD on language
(Kunstner et al. 2024, arXiv 2402.19449); a vocabulary of characters would not show it. Whole files train,
validate or test, so no file is on two sides. Gradients are clipped, as is the custom for transformers (Brown
et al. 2020, arXiv 2005.14165).
"""

import hashlib
import platform
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import options

WORD = re.compile(r"[^\W\d]\w*|\d+|\n\s*|[^\w\s]")
VOCABULARY = 5000
"""Words with a number of their own, the unknown word among them."""
UNKNOWN = 0

FEWEST_CHARACTERS, MOST_CHARACTERS = 4_000_000, 8_000_000
"""How much text there must be, and how much is read at most, which bounds the time to start."""

SPLIT_SEED = 0
HELD_OUT = 0.1
"""The share of the words in each of validation and test."""

APART = frozenset(
    {"distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "tkinter", "turtledemo"}
)
"""Modules that some distributions ship apart or not at all, or that are not written by hand."""

CONTEXT = 32
WIDTH, HEADS, LAYERS = 96, 4, 2
WINDOWS = {"validation": 192, "test": 1024}
"""Windows of `CONTEXT` words in each held-out part: evenly spaced, the same always."""
EVALUATION_BATCH = 32


class Corpus(NamedTuple):
    """The text as numbers.

    Attributes:
        words: the words of each part, int16.
        files: how many files each part has.
        unknown: the share of unknown words in the training text.
        sha256: of all text read, in reading order; equal for equal libraries.
    """

    words: dict[str, np.ndarray]
    files: dict[str, int]
    unknown: float
    sha256: str


class Text(Workload):
    """The standard library as text; see `thalweg.lab.workload.Workload`.

    Args:
        given: options, those of `thalweg.lab.workload.shipped.options`.
    """

    name = "text"
    title = "a transformer language model on the source text of Python's standard library"
    metric = "loss"
    difference_unit = "nats"
    batch_size = 8
    steps = 500
    evaluate_every = 125
    clip_norm = 1.0

    def __init__(self, **given: Any) -> None:
        options.take(self, (), given)
        self._corpus = corpus()

    def model(self, seed: int) -> nn.Module:
        """1,186,944 parameters: a decoder of two layers, pre-norm, with learned positions."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _Decoder()

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Words, int64 of shape (batch_size, CONTEXT + 1), from random places of the training text."""
        words = self._corpus.words["train"]
        generator = np.random.default_rng(seed)
        for _ in range(self.steps):
            yield _windows(words, generator.integers(0, len(words) - CONTEXT, self.batch_size))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Mean cross-entropy of the next word, in nats."""
        logits = model(batch[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Mean cross-entropy of the next word in nats, on the windows of this part."""
        words, count = self._corpus.words[split], WINDOWS[split]
        starts = np.linspace(0, len(words) - CONTEXT - 1, count).astype(np.int64)
        total = 0.0
        for at in range(0, count, EVALUATION_BATCH):
            batch = _windows(words, starts[at : at + EVALUATION_BATCH]).to(device_of(model))
            total += len(batch) * self.loss(model, batch).item()
        return Evaluation(metric=total / count, loss=total / count)

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        words, files = self._corpus.words, self._corpus.files
        parts = ", ".join(f"{part} {len(words[part]):,} words in {files[part]} files" for part in words)
        return {
            "Data": f"source text of the standard library of Python {platform.python_version()} without its "
            f"tests, SHA-256 {self._corpus.sha256[:12]}",
            "Vocabulary": f"{VOCABULARY:,} words, the most frequent of the training files; "
            f"{100 * self._corpus.unknown:.1f} % of their words are unknown",
            "Split": f"by file, split seed {SPLIT_SEED}: {parts}; evaluated on "
            f"{WINDOWS['validation']} and {WINDOWS['test']:,} windows of {CONTEXT} words",
            "Model": f"transformer decoder, {LAYERS} layers, width {WIDTH}, {HEADS} heads, "
            f"context {CONTEXT}, pre-norm, no dropout: 1,186,944 parameters, float32",
            "Training": f"batches of {self.batch_size} windows, {self.steps} steps "
            f"({self.steps * self.batch_size * CONTEXT:,} words), mean cross-entropy, "
            + (f"gradients clipped to norm {self.clip_norm:g}" if self.clip_norm else "no clipping"),
            **options.facts(self, ()),
        }


@cache
def corpus() -> Corpus:
    """The text of the running interpreter's library, read once in a process.

    Raises:
        MissingDataError: it is not installed as files.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = _texts(library)
    if sum(map(len, texts)) < FEWEST_CHARACTERS:
        raise MissingDataError(f"workload 'text' needs the source text of Python's library, not in {library}")
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    return split([WORD.findall(text) for text in texts], digest)


def split(files: list[list[str]], digest: str = "") -> Corpus:
    """Whole files, in random order, to test and validation until those have their share, then to training."""
    total = sum(map(len, files))
    parts: dict[str, list[list[str]]] = {"train": [], "validation": [], "test": []}
    filled = dict.fromkeys(parts, 0)
    for index in np.random.default_rng(SPLIT_SEED).permutation(len(files)):
        part = next((p for p in ("test", "validation") if filled[p] < HELD_OUT * total), "train")
        parts[part].append(files[index])
        filled[part] += len(files[index])
    counts = Counter(chain.from_iterable(parts["train"]))
    # Sorted by count, then by the word itself: Counter's own order of equal counts is that of reading.
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - 1]
    number = {word: index for index, word in enumerate(frequent, start=UNKNOWN + 1)}
    words = {
        part: np.array([number.get(word, UNKNOWN) for file in those for word in file], np.int16)
        for part, those in parts.items()
    }
    return Corpus(
        words=words,
        files={part: len(those) for part, those in parts.items()},
        unknown=float((words["train"] == UNKNOWN).mean()),
        sha256=digest,
    )


def _texts(library: Path) -> list[str]:
    """The files of the library in the order of their paths, up to `MOST_CHARACTERS`."""
    texts, characters = [], 0
    for path in _sources(library):
        text = path.read_text(encoding="utf-8", errors="replace")
        characters += len(text)
        if characters > MOST_CHARACTERS:
            break
        texts.append(text)
    return texts


def _sources(library: Path) -> Iterator[Path]:
    names = sorted(sys.stdlib_module_names - APART)
    for name in names:
        if (library / f"{name}.py").is_file():
            yield library / f"{name}.py"
        for path in sorted((library / name).rglob("*.py")):
            if not {"test", "tests", "__pycache__"} & set(path.relative_to(library).parts):
                yield path


def _windows(words: np.ndarray, starts: np.ndarray) -> Tensor:
    return torch.from_numpy(words[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))


class _Layer(nn.Module):
    """Attention to the words so far, then a feed-forward network, each added to its normalised input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.feed_forward(self.norm2(hidden))

    def attention(self, hidden: Tensor) -> Tensor:
        count, length, _ = hidden.shape
        by_head = self.projections(hidden).view(count, length, 3, HEADS, WIDTH // HEADS).transpose(1, 3)
        query, key, value = by_head.unbind(dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(count, length, WIDTH))
        return attended


class _Decoder(nn.Module):
    """Logits of shape (n, length, VOCABULARY) for the word after each of (n, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.empty(CONTEXT, WIDTH))
        self.layers = nn.Sequential(*(_Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.logits = nn.Linear(WIDTH, VOCABULARY, bias=False)
        # As GPT-2 does: torch's own initialisation of embeddings has deviation 1, 50 times as much.
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.words(words) + self.positions[: words.shape[1]]
        logits: Tensor = self.logits(self.norm(self.layers(hidden)))
        return logits
