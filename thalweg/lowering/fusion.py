"""Which multiplications and additions become one instruction, decided in the trace.

Left to compilers, of `a * b + c * d` one fuses the first product and another the second, and the same
compiler may choose anew for memory that is aligned otherwise, so that bits would depend on where a tensor
lies. Decided here, they depend on the rule alone: on every device, for every alignment and in every loop.
"""

from __future__ import annotations

from collections import Counter

from thalweg.lowering.trace import Trace, operands_of


def fused(record: Trace) -> Trace:
    """Return a trace of the same values with `fma` for a sum, or difference, of a product and something.

    Of two products the first is fused. One that is needed elsewhere too is not: it would be computed twice.
    """
    product_of = _products(record)
    needed = _needed(record, product_of)
    new = Trace()
    place: dict[int, int] = {}
    for i, line in enumerate(record.lines):
        if i not in needed:
            continue
        if i in product_of:
            place[i] = _fma(new, line, record.lines[product_of[i]], product_of[i], place)
        else:
            moved = [place[j] for j in operands_of(line)] or line[1:]
            place[i] = new.emit(line[0], *moved).line
    new.outputs = {name: place[line] for name, line in record.outputs.items()}
    return new


def _products(record: Trace) -> dict[int, int]:
    """Return for each sum that takes a product in the line of that product."""
    uses = Counter(j for line in record.lines for j in operands_of(line))
    uses.update(record.outputs.values())
    found = {}
    for i, line in enumerate(record.lines):
        single = [j for j in operands_of(line) if record.lines[j][0] == "mul" and uses[j] == 1]
        if line[0] in ("add", "sub") and single:
            found[i] = single[0]
    return found


def _needed(record: Trace, product_of: dict[int, int]) -> set[int]:
    """Return the lines that are left: a product that is fused is not, but what it multiplies is."""
    needed = set(record.outputs.values())
    for i in reversed(range(len(record.lines))):
        if i in needed:
            needed.update(operands_of(record.lines[i]))
        if i in product_of and i in needed:
            needed.discard(product_of[i])
            needed.update(operands_of(record.lines[product_of[i]]))
    return needed


def _fma(new: Trace, line: tuple, product: tuple, at: int, place: dict[int, int]) -> int:
    operation, left, right = line
    a, b = (place[j] for j in product[1:])
    other = place[right if left == at else left]
    if operation == "sub" and left == at:
        other = new.emit("neg", other).line
    elif operation == "sub":
        a = new.emit("neg", a).line
    return new.emit("fma", a, b, other).line
