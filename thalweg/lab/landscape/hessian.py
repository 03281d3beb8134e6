"""The Hessian of a loss: products with it, its largest eigenvalue, its trace, its adaptive sharpness.

H is the matrix of second derivatives of the mean loss over the batches that are given. It is never written
down: a product takes two passes back through the model (Pearlmutter 1994).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.lab.landscape.spectra import Estimate, hutchinson, lanczos
from thalweg.lab.landscape.vectors import Closure, Losses, Weights, closures, flat, parts

PRODUCTS = 20
"""At most so many products for an eigenvalue, unless asked otherwise,"""

TOLERANCE = 0.01
"""and fewer when the residual is at most this share of it."""

PROBES = 8
"""Products for a trace, unless asked otherwise."""

COARSE = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sharpness:
    """A largest eigenvalue.

    Attributes:
        value: never above the eigenvalue, up to rounding.
        residual: within so much of `value` lies an eigenvalue.
        products: with the Hessian, as many as it took.
    """

    value: float
    residual: float
    products: int


class Hessian:
    """The second derivatives of a loss, as products: `hessian(vector)`, of shape (n,).

    The graph of the gradient is made once, of all batches, and kept, so that products see one loss, with one
    draw of whatever is random in it (dropout), and the buffers of batch norms are moved once. Parameters'
    `.grad` is left alone.

    Args:
        params: n elements in all; those that need no gradient are passed over.
        loss_fn: their loss on a batch, or those on several, whose mean is meant.
        keep: whether to keep the graphs; otherwise each product evaluates the losses anew, in less memory,
            and these must be the same each time.

    Raises:
        ValueError: no parameter needs a gradient, or one is complex or of 16 bits, too coarse for a product.
        RuntimeError: of torch, where the loss cannot be differentiated twice.
    """

    def __init__(self, params: Sequence[Tensor], loss_fn: Losses, *, keep: bool = True) -> None:
        self.params = [param for param in params if param.requires_grad]
        if not self.params:
            raise ValueError("params must hold at least one tensor that needs a gradient")
        for param in self.params:
            if param.dtype in COARSE:
                name = str(param.dtype).removeprefix("torch.")
                raise ValueError(f"params must be float32 or float64: products in {name} are too coarse")
        like = flat(self.params)
        self.size, self.dtype, self.device = like.numel(), like.dtype, like.device
        self.products = 0
        self._losses = closures(loss_fn)
        self._kept = self._gradient(self._losses) if keep else None

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector of shape (n,)."""
        self.products += 1
        wanted = parts(vector, self.params)
        if self._kept is not None:
            return self._along(self._kept, wanted)
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for loss in self._losses:
            total += self._along(self._gradient([loss]), wanted)
        return total / len(self._losses)

    def _gradient(self, losses: Sequence[Closure]) -> list[Tensor]:
        with torch.enable_grad(), differentiable_twice():
            mean = torch.stack([loss().reshape(()) for loss in losses]).mean()
            found = torch.autograd.grad(
                mean, self.params, create_graph=True, allow_unused=True, materialize_grads=True
            )
        return list(found)

    def _along(self, gradients: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """The derivative of the gradient along a direction."""
        pairs = [pair for pair in zip(gradients, wanted, strict=True) if pair[0].requires_grad]
        if not pairs:  # a loss without curvature
            return torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with differentiable_twice():
            found = torch.autograd.grad(
                [gradient for gradient, _ in pairs],
                self.params,
                [direction for _, direction in pairs],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        return flat(found, self.dtype)

    def sharpness(
        self,
        *,
        scale: Weights | None = None,
        decay: Weights | None = None,
        products: int = PRODUCTS,
        tolerance: float = TOLERANCE,
        seed: int = 0,
    ) -> Sharpness:
        """The largest eigenvalue of H or, with S = diag(scale) and D = diag(decay), of S (H + D) S.

        Args:
            scale: n elements; None for ones. With P an optimizer's preconditioner and scale P^(-1/2), it is
                that of P^-1 H.
            decay: n elements, such as those of an L2 penalty; None for zeros.
            products, tolerance, seed: see `lanczos`.

        Raises:
            ValueError: a product is not finite or H not symmetric, which tells of a backward pass that is not
                the derivative of its forward pass.
        """
        factor = None if scale is None else flat(scale, self.dtype).to(self.device)
        added = None if decay is None else flat(decay, self.dtype).to(self.device)

        def product(vector: Tensor) -> Tensor:
            outer = vector if factor is None else factor * vector
            found = self(outer)
            found = found if added is None else found + added * outer
            return found if factor is None else factor * found

        found = lanczos(
            product,
            self.size,
            products=products,
            tolerance=tolerance,
            seed=seed,
            dtype=self.dtype,
            device=self.device,
        )
        return Sharpness(float(found.values[-1]), float(found.residuals[-1]), found.products)

    def trace(self, *, probes: int = PROBES, seed: int = 0) -> Estimate:
        """The sum of all eigenvalues of H, estimated; see `hutchinson`."""
        return hutchinson(self, self.size, probes=probes, seed=seed, dtype=self.dtype, device=self.device)

    def adaptive_sharpness(
        self, *, products: int = PRODUCTS, tolerance: float = TOLERANCE, seed: int = 0
    ) -> Sharpness:
        """The largest eigenvalue of |W| H |W|, W = diag of the parameters.

        The second-order form of element-wise adaptive sharpness (Kwon et al. 2021, arXiv 2102.11600, with
        T = |W|; Andriushchenko et al. 2023, arXiv 2302.07011): at a critical point, the loss rises by at most
        rho^2 / 2 times this where no weight moves by more than rho of its own size, all moves together in the
        Euclidean norm. It does not change where weights are scaled such that the model stays the same: H goes
        with the inverse square of the scales. Weights that are zero have no part in it.
        """
        size = flat(self.params).abs()
        return self.sharpness(scale=size, products=products, tolerance=tolerance, seed=seed)


def sharpness(
    params: Sequence[Tensor],
    loss_fn: Losses,
    *,
    scale: Weights | None = None,
    products: int = PRODUCTS,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Sharpness:
    """The largest eigenvalue of the Hessian of a loss; see `Hessian` and `Hessian.sharpness`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> found = sharpness(list(model.parameters()), lambda: (model(x) ** 2).sum())
        >>> round(found.value, 3), found.products
        (18.0, 2)
    """
    hessian = Hessian(params, loss_fn)
    return hessian.sharpness(scale=scale, products=products, tolerance=tolerance, seed=seed)


def trace(params: Sequence[Tensor], loss_fn: Losses, *, probes: int = PROBES, seed: int = 0) -> Estimate:
    """The trace of the Hessian of a loss, estimated; see `Hessian` and `hutchinson`."""
    return Hessian(params, loss_fn).trace(probes=probes, seed=seed)


def adaptive_sharpness(
    params: Sequence[Tensor],
    loss_fn: Losses,
    *,
    products: int = PRODUCTS,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Sharpness:
    """The largest eigenvalue of |W| H |W|; see `Hessian.adaptive_sharpness`."""
    return Hessian(params, loss_fn).adaptive_sharpness(products=products, tolerance=tolerance, seed=seed)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Attention and recurrent layers as plain operations: their fused kernels have no second derivative."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
