"""The sets of tensors that are measured."""

from __future__ import annotations

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """Return the shapes of ResNet-50's 161 parameters (He et al. 2015, arXiv 1512.03385, table 1)."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inside, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inside, 1, 1), (4 * width,), (4 * width,)]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


SETS: dict[str, Shapes] = {
    "one 50M tensor": [(50_000_000,)],
    "ResNet-50": resnet50(),
    "400 x 1,000": [(1_000,)] * 400,
    "4,000 x 64": [(64,)] * 4_000,
}
