"""Sharpness-aware minimization around any of our optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.optimizer.base import Optimizer

STORED = ("float32", "bfloat16")
_LEAST = 1e-12


class SAM(torch.optim.Optimizer):
    r"""Sharpness-aware minimization (SAM), and its adaptive form (ASAM).

    .. math::
        e = \rho\, \frac{g}{\lVert g \rVert}
            \quad\text{or, adaptive,}\quad
            \rho\, \frac{T^2 g}{\lVert T g \rVert}, \quad T = |p| + \eta

    The weights climb by `e`, the gradient is taken there, the weights come back, and the base optimizer steps
    by that gradient (Foret et al. 2021, arXiv 2010.01412, algorithm 1; Kwon et al. 2021, arXiv 2102.11600,
    equation 8). Norms are over all gradients.

    With a closure, which evaluates the model, calls `backward` and returns the loss:

    .. code-block:: python

        optimizer = thalweg.SAM(thalweg.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
        loss = optimizer.step(closure)

    In two calls, each pass over as many batches as one likes, under `torch.amp.GradScaler` too:

    .. code-block:: python

        backward(batches)
        if optimizer.ascend():  # gradients are zero then, and weights have climbed
            backward(batches)
        optimizer.step()  # or scaler.step(optimizer)

    Args:
        base: the optimizer that steps. Its groups, state and hyperparameters are this one's too, so
            schedulers and checkpoints may take either.
        rho: how far to climb, at least 0.
        adaptive: climb in proportion to the weights (ASAM); `rho` is ten times as large then, or more.
        eta: what ASAM adds to the size of a weight, at least 0.
        every: climb at every so many steps, beginning with the first; others are the base's.
        stored: what brings the weights back: `"float32"`, a copy of them, exact; or `"bfloat16"`, the climb
            in two bytes an element, which brings them back up to float32's rounding.
        model: whose batch norms keep their running statistics in the second pass; None, if they may count
            both.

    Raises:
        TypeError, ValueError: if an argument is not allowed.
    """

    def __init__(
        self,
        base: Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        every: int = 1,
        stored: str = "float32",
        model: nn.Module | None = None,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"base must be a thalweg.Optimizer, not {type(base).__name__}")
        for name, value in (("rho", rho), ("eta", eta)):
            if not 0 <= float(value) < float("inf"):
                raise ValueError(f"{name} must be a number at least 0, not {value!r}")
        if every < 1 or every != int(every):
            raise ValueError(f"every must be an integer at least 1, not {every!r}")
        if stored not in STORED:
            raise ValueError(f"stored must be {' or '.join(map(repr, STORED))}, not {stored!r}")
        self.base = base
        self.rho, self.adaptive, self.eta = rho, adaptive, eta
        self.every, self.stored, self.model = every, stored, model
        self._steps = 0
        self._climbed: list[tuple[Tensor, Tensor]] = []
        self._momenta: list[tuple[nn.Module, Any]] = []
        super().__init__(base.param_groups, base.defaults)
        self.param_groups, self.state = base.param_groups, base.state
        # Always, as a scaler that skips a step by itself would leave the weights where they have climbed to.
        self._step_supports_amp_scaling = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer."""
        if not any(param_group is group for group in self.base.param_groups):
            self.base.add_param_group(param_group)

    @property
    def is_due(self) -> bool:
        """Whether the coming step climbs."""
        return self._steps % self.every == 0

    @torch.no_grad()
    def ascend(self) -> bool:
        """Climb along the gradients, which are zero afterwards, if it is due at this step.

        Gradients that are not all finite move nothing; nothing is waited for on a GPU.

        Returns:
            Whether a second pass is due, whose gradients `step` takes.

        Raises:
            RuntimeError: if the weights have climbed already, or the base steps in backward.
        """
        if self.base.steps_in_backward:
            raise RuntimeError(
                "SAM needs the gradients of a whole pass: its base must not step in_backward()"
            )
        if self._climbed:
            raise RuntimeError("the weights have climbed already: step() comes next")
        if not self.is_due:
            return False
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        directions = [self._direction(p) for p in params]
        norm = _norm([self._measured(p) for p in params])
        for param, direction in zip(params, directions, strict=True):
            scale = self.rho / (norm.to(param.device) + _LEAST)
            is_finite = norm.isfinite().to(param.device)
            climb = torch.where(is_finite, direction * scale.to(direction.real.dtype), 0.0)
            self._climb(param, climb)
        self.zero_grad()
        self._rest_batch_norms()
        return True

    def _direction(self, param: Tensor) -> Tensor:
        grad = _dense(param)
        return grad * (param.abs() + self.eta) ** 2 if self.adaptive else grad

    def _measured(self, param: Tensor) -> Tensor:
        grad = _dense(param)
        return grad * (param.abs() + self.eta) if self.adaptive else grad

    def _climb(self, param: Tensor, climb: Tensor) -> None:
        kept = param.detach().clone() if self.stored == "float32" else climb.to(torch.bfloat16)
        self._climbed.append((param, kept))
        param.add_(climb if self.stored == "float32" else kept.to(param.dtype))

    def _rest_batch_norms(self) -> None:
        for module in () if self.model is None else self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                self._momenta.append((module, module.momentum))
                module.momentum = 0.0

    @torch.no_grad()
    def descend(self) -> None:
        """Bring the weights back, without a step."""
        for param, kept in self._climbed:
            if self.stored == "float32":
                param.copy_(kept)
            else:
                param.sub_(kept.to(param.dtype))
        self._climbed.clear()
        for module, momentum in self._momenta:
            module.momentum = momentum
        self._momenta.clear()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Bring the weights back, if they have climbed, and have the base optimizer step.

        Args:
            closure: evaluates the model, calls `backward` and returns the loss. It is called once, and once
                more where the weights have climbed; gradients are set to zero before each call.

        Returns:
            The loss of the first call; None without a closure.
        """
        loss = None
        if closure is not None:
            loss = self._two_passes(closure)
        self.descend()
        with self._scaling_of_base():
            self.base.step()
        self._steps += 1
        return loss

    def _two_passes(self, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            self.zero_grad()
            loss = closure()
            try:
                if self.ascend():
                    closure()
            except BaseException:
                self.descend()
                raise
        return loss

    @contextmanager
    def _scaling_of_base(self) -> Iterator[None]:
        """Hand on what a GradScaler has left here."""
        names = ("grad_scale", "found_inf")
        left: dict[str, Any] = {name: vars(self)[name] for name in names if name in vars(self)}
        vars(self.base).update(left)
        try:
            yield
        finally:
            for name in left:
                vars(self.base).pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        own = ("base", "rho", "adaptive", "eta", "every", "stored", "model")
        rest = {name: vars(self)[name] for name in (*own, "_steps", "_climbed", "_momenta")}
        return {**super().__getstate__(), **rest, "_step_supports_amp_scaling": True}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset gradients, as in torch."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state dict."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a checkpoint of the base optimizer."""
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state


def _dense(param: Tensor) -> Tensor:
    """Return the gradient of a parameter, with all its zeros."""
    grad = param.grad
    assert grad is not None, "the caller has asked"
    return grad.to_dense() if grad.is_sparse else grad


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all elements of tensors, which may lie on several devices, as a 0-dim tensor."""
    if not tensors:
        return torch.zeros((), device="cpu")
    reals = [torch.view_as_real(one) if one.is_complex() else one for one in tensors]
    norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in reals]
    return torch.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms]))
