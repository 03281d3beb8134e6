"""What the claims are tried on: variants of the lab's workloads, sized before a result was seen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from thalweg.lab.lesson.probes import DoubleWell, EarlySteps, Leaving
from thalweg.lab.workload import Workload, shipped


def digits() -> Workload:
    """The small convolutional network on digits, as `thalweg compare digits` trains it."""
    from thalweg.lab.workload.shipped.digits import Digits

    return Digits()


def fashion() -> Workload:
    """The convolutional network on Fashion-MNIST, for half of its usual steps."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(steps=600, evaluate_every=200)


def fashion_short() -> Workload:
    """The same for 400 steps: for sweeps, which take many runs."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(steps=400, evaluate_every=200)


def speech_short() -> Workload:
    """The recurrent network on spoken digits for half of its usual steps: likewise."""
    from thalweg.lab.workload.shipped.speech import Speech

    return Speech(steps=210, evaluate_every=105)


def fashion_norm() -> Workload:
    """The same with batch norm."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(steps=600, evaluate_every=200, norm=True)


def fashion_noisy() -> Workload:
    """The same without batch norm, with 5 % of the batches scaled by 100."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(steps=600, evaluate_every=200, outliers=0.05)


def fashion_labels() -> Workload:
    """The same, with a fifth of the training labels wrong."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(steps=600, evaluate_every=200, label_noise=0.2)


def fashion_to_loss(batch_size: int, steps: int, evaluate_every: int) -> Workload:
    """2,000 images, until the training loss is 0.01; at a constant rate, so that no schedule decides when."""
    from thalweg.lab.workload.shipped.fashion_mnist import FashionMnist

    return FashionMnist(
        examples=2000,
        batch_size=batch_size,
        steps=steps,
        evaluate_every=evaluate_every,
        until_loss=0.01,
        schedule="constant",
    )


def fashion_to_loss_64() -> Workload:
    """In batches of 64."""
    return fashion_to_loss(64, 3000, 50)


def fashion_to_loss_16() -> Workload:
    """In batches of 16."""
    return fashion_to_loss(16, 4000, 100)


def fashion_to_loss_full() -> Workload:
    """All images in every batch."""
    return fashion_to_loss(2000, 1000, 20)


def text() -> Workload:
    """The transformer language model, for half of its usual steps."""
    from thalweg.lab.workload.shipped.text import Text

    made = Text()
    made.steps, made.evaluate_every = 250, 125
    return made


def speech() -> Workload:
    """The recurrent network on spoken digits, as `thalweg compare speech` trains it."""
    from thalweg.lab.workload.shipped.speech import Speech

    return Speech()


def deep(batch_size: int, **options: object) -> Workload:
    """The deep tanh network, until the training loss is 0.1; at a constant rate."""
    from thalweg.lab.workload.shipped.deep import Deep

    return Deep(batch_size=batch_size, until_loss=0.1, schedule="constant", **options)


def deep_8() -> Workload:
    """In batches of 8."""
    return deep(8, steps=3000, evaluate_every=25)


def deep_64() -> Workload:
    """In batches of 64."""
    return deep(64, steps=1500, evaluate_every=10)


def deep_512() -> Workload:
    """In batches of 512."""
    return deep(512, steps=1500, evaluate_every=5)


def deep_scaled() -> Workload:
    """In batches of 64, with layers whose parameters have scales 1, 10 and 100 in turn."""
    return deep(64, steps=1500, evaluate_every=10, scales=(1.0, 10.0, 100.0))


def deep_norm() -> Workload:
    """In batches of 64, with batch norm."""
    return deep(64, steps=1500, evaluate_every=10, norm=True)


def deep_norm_scaled() -> Workload:
    """With both."""
    return deep(64, steps=1500, evaluate_every=10, scales=(1.0, 10.0, 100.0), norm=True)


def zipf() -> Workload:
    """The linear classifier of ids that follow Zipf's law, as `thalweg compare zipf` trains it."""
    from thalweg.lab.workload.shipped.zipf import Zipf

    return Zipf()


EXAMPLES = 64_000
"""Examples that the classifier of ids sees, whatever the batch size."""


def ids(exponent: float, batch_size: int) -> Workload:
    """The same with other frequencies, in batches of another size."""
    from thalweg.lab.workload.shipped.zipf import Zipf

    steps = EXAMPLES // batch_size
    return Zipf(exponent=exponent, batch_size=batch_size, steps=steps, evaluate_every=max(1, steps // 5))


zipf_16, zipf_512 = partial(ids, 1.0, 16), partial(ids, 1.0, 512)
uniform_16, uniform_512 = partial(ids, 0.0, 16), partial(ids, 0.0, 512)


def stream() -> Workload:
    """Digits whose labels change every 200 steps, as `thalweg compare stream` trains it."""
    return shipped.find("stream")


def series() -> Workload:
    """The recurrent forecaster, as `thalweg compare series` trains it."""
    return shipped.find("series")


def rl() -> Workload:
    """The policy gradient on CartPole, as `thalweg compare rl` trains it."""
    return shipped.find("rl")


def digits_to_loss() -> Workload:
    """The small convolutional network on digits, until the training loss is 0.2."""
    from thalweg.lab.workload.shipped.digits import Digits

    return Digits(until_loss=0.2, evaluate_every=8)


def speech_to_loss() -> Workload:
    """The recurrent network on spoken digits, until the training loss is 0.3."""
    from thalweg.lab.workload.shipped.speech import Speech

    return Speech(until_loss=0.3, evaluate_every=14)


def early_speech() -> Workload:
    """Sizes of steps on spoken digits."""
    return EarlySteps(speech())


def early_deep() -> Workload:
    """Sizes of steps of the deep tanh network."""
    from thalweg.lab.workload.shipped.deep import Deep

    return EarlySteps(Deep(schedule="constant"))


def double_well() -> Workload:
    """Particles in a double well."""
    return DoubleWell()


def leaving_digits() -> Workload:
    """Leaving a minimum of the digits network."""
    return Leaving(digits())


def split(lr: float) -> float:
    """The rate of SGD with momentum that goes with one of Adam: their ranges are a decade apart."""
    return 10 * lr


def text_groups(model: nn.Module, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adam for embeddings, norms, biases and the head; SGD with momentum for the matrices of the blocks."""
    return _groups(model, settings, lambda name, p: name.startswith("layers") and p.ndim > 1)


def head_groups(model: nn.Module, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adam for the first and the last layer and all biases; SGD with momentum for the matrices between."""
    matrices = [name for name, p in model.named_parameters() if p.ndim > 1]
    return _groups(model, settings, lambda name, p: name in matrices[1:-1])


def _groups(
    model: nn.Module, settings: Mapping[str, Any], steepest: Callable[[str, nn.Parameter], bool]
) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    sgd = [p for name, p in named if steepest(name, p)]
    adam = [p for name, p in named if not steepest(name, p)]
    return [
        {"params": adam, "optimizer": "Adam", "lr": settings["lr"]},
        {"params": sgd, "optimizer": "SGD", "lr": split(settings["lr"]), "momentum": 0.9},
    ]
