"""What becomes of rows that a sparse gradient does not name."""

from __future__ import annotations

from thalweg.rule import Addition, Hyper

SPARSE = Addition(
    name="sparse",
    hypers=(Hyper("sparse", words=("lazy", "exact"), extra=True, default="lazy"),),
    rests=True,
    catches_up=True,
)
"""`"lazy"`: they rest. `"exact"`: when they are named again, they first make up for the steps with zero
gradients that dense training would have taken. `docs/sparse.md` has the formulas."""
