"""How far a step moves weights, beside their own size."""

from collections.abc import Iterable

from torch import Tensor


def update_sizes(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """The root mean square of a step over that of the weights before it, tensor by tensor.

    Args:
        pairs: each tensor before the step and after it, of one shape, decay included.

    Returns:
        A number each; infinite where weights of zero moved, and zero where they did not.
    """
    found = []
    for before, after in pairs:
        old = before.detach()
        size = float(old.abs().double().norm())
        step = float((after.detach() - old).abs().double().norm())
        found.append(step / size if size else (float("inf") if step else 0.0))
    return found
