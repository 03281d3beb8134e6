"""How the loss lies around weights: sharpness, noise of gradients, size of steps, lines and planes.

Parameters are a sequence of tensors, such as ``list(model.parameters())``; a loss is a closure without
arguments that evaluates it at them, and several closures stand for several batches, whose mean is meant.
"""

from thalweg.lab.landscape.hessian import Hessian, Sharpness, adaptive_sharpness, sharpness, trace
from thalweg.lab.landscape.lines import Line, barrier
from thalweg.lab.landscape.noise import NoiseScale, gradient, noise_scale
from thalweg.lab.landscape.planes import Grid, Plane, Projection, plane
from thalweg.lab.landscape.spectra import Eigenvalues, Estimate, hutchinson, lanczos
from thalweg.lab.landscape.stability import Stability, UnknownError, stability_bound
from thalweg.lab.landscape.updates import update_sizes
from thalweg.lab.landscape.vectors import evaluated_at, flat, parts

__all__ = [
    "Eigenvalues",
    "Estimate",
    "Grid",
    "Hessian",
    "Line",
    "NoiseScale",
    "Plane",
    "Projection",
    "Sharpness",
    "Stability",
    "UnknownError",
    "adaptive_sharpness",
    "barrier",
    "evaluated_at",
    "flat",
    "gradient",
    "hutchinson",
    "lanczos",
    "noise_scale",
    "parts",
    "plane",
    "sharpness",
    "stability_bound",
    "trace",
    "update_sizes",
]
