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


def gpt2() -> Shapes:
    """Return the shapes of GPT-2 small's 148 parameters (Radford et al. 2019); the output is the input's."""
    width, layers, vocabulary, context = 768, 12, 50_257, 1024
    norm: Shapes = [(width,), (width,)]
    attention: Shapes = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    dense: Shapes = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    layer = [*norm, *attention, *norm, *dense]
    return [(vocabulary, width), (context, width), *layer * layers, *norm]


def llama_1b() -> Shapes:
    """Return the shapes of a Llama of 1.2 billion parameters (Llama 3.2 1B); the output is the input's."""
    width, layers, inside, heads, kv_heads, vocabulary = 2048, 16, 8192, 32, 8, 128_256
    shared = width // heads * kv_heads
    attention: Shapes = [(width, width), (shared, width), (shared, width), (width, width)]
    dense: Shapes = [(inside, width), (inside, width), (width, inside)]
    layer = [*attention, *dense, (width,), (width,)]
    return [(vocabulary, width), *layer * layers, (width,)]


SETS: dict[str, Shapes] = {
    "one 50M tensor": [(50_000_000,)],
    "ResNet-50": resnet50(),
    "400 x 1,000": [(1_000,)] * 400,
    "4,000 x 64": [(64,)] * 4_000,
}

GPU_SETS: dict[str, Shapes] = {
    "one 1e8 tensor": [(100_000_000,)],
    "Llama 1B": llama_1b(),
    "GPT-2 small": gpt2(),
    "ResNet-50": resnet50(),
    "400 x 1,000": [(1_000,)] * 400,
    "4,000 x 64": [(64,)] * 4_000,
}
"""What is measured on a GPU."""
