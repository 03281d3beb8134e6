"""How many instructions does a GPU's kernel take for a tile? Compiled for a GPU that need not be there.

Of each pair of codes for an AdamW step: the instructions of the longest loop (of codes in blocks that over
whole tiles), those for an element of a thread, and registers. Where arithmetic is the limit, times go with
them.

Run: python benchmarks/gpu_instructions.py [--capability 90]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import thalweg
from thalweg.lowering.gpu import shapes
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.passes import scalar_names
from thalweg.lowering.spec import Spec
from thalweg.storage.codecs import FLOAT32, slot_codec

CODES = (
    ("float32", "float32"),
    ("block8", "block8"),
    ("block8", "int8"),
    ("int8", "block8"),
    ("int8", "int8"),
)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {"addresses": "*i64", "chunks": "*i32", "keys": "*i32", "found_inf": "*fp32", "tensors": "i32"}


def spec_of(first: str, second: str) -> Spec:
    optimizer = thalweg.AdamW([torch.zeros(1, requires_grad=True)])
    (group,) = optimizer.param_groups
    recipe = optimizer.recipe_of(group)
    on = recipe.flags(recipe.numbers(group))
    slots = tuple(
        slot_codec(name, slot.signed, slot.over)
        for name, slot in zip((first, second), recipe.slots_on(on), strict=True)
    )
    names = scalar_names(recipe, recipe.choices(group))
    return Spec(recipe, tuple(on.items()), names, FLOAT32, FLOAT32, slots, maximize=False, unscale=False)


def listing(spec: Spec, capability: int) -> tuple[str, str]:
    """Return the kernel's instructions, and what it says of registers."""
    function = cuda.step_kernel(spec, True).function
    signature = {name: TYPES.get(name, "*fp32") for name in function.arg_names}
    options = shapes.shape_of(spec).options("cuda")
    source = ASTSource(fn=function, signature=signature, constexprs={}, attrs={})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return tuple(
            subprocess.run(
                [TOOLS / tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "--dump-resource-usage"))
        )


def longest_loop(text: str) -> int:
    """Return how many instructions lie between a label and the farthest branch back to it."""
    labels: dict[str, int] = {}
    count, longest = 0, 0
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*);", line):
            count += 1
            target = re.search(r"BRA.*`\((\.L_x_\d+)\)", instruction[1])
            if target and target[1] in labels:
                longest = max(longest, count - labels[target[1]])
    return longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="of the GPU, 90 for Hopper")
    capability = parser.parse_args().capability
    print(f"AdamW, sm_{capability}, Triton {triton.__version__}")
    print(f"{'first':10}{'second':10}{'tile':>6}{'loop':>6}{'an element':>12}{'registers':>11}")
    for first, second in CODES:
        spec = spec_of(first, second)
        text, resources = listing(spec, capability)
        shape, loop = shapes.shape_of(spec), longest_loop(text)
        elements = shape.tile / (32 * shape.warps)
        registers = re.search(r"REG:(\d+)", resources)
        print(
            f"{first:10}{second:10}{shape.tile:6}{loop:6}{loop / elements:12.1f}"
            f"{registers[1] if registers else '?':>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
