"""Steps that are taken in backward, or on the host, because the user has arranged it so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from thalweg.optimizer.backward import InBackward
from thalweg.optimizer.compiling import uncompiled
from thalweg.optimizer.offload import Offload
from thalweg.optimizer.stepped import Stepped


class Arranged(Stepped):
    """Can be told when and where its steps are taken."""

    @uncompiled
    def in_backward(
        self,
        *,
        every: int = 1,
        hold: int | None = None,
        clip_by_last_norm: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> InBackward:
        """Step each parameter in backward, when its gradient is complete, and free the gradient.

        From then on `loss.backward()` is a step. `step()` is not needed; it takes what has a gradient still,
        and does nothing where there is none. `docs/in-backward.md` says what goes with it and what does not.

        Args:
            every: step in every so many backward passes, of which the others only accumulate.
            hold: bytes of complete gradients to wait for before they are stepped; None: 4 MiB, or 1/16 of
                all gradients where that is more.
            clip_by_last_norm: have `max_norm` clip by the norm of the step before, or of the gradients that
                have come so far in this one, if that is larger.
            scaler: the `torch.amp.GradScaler` that scales the loss; call its `step(optimizer)` and `update()`
                as ever. Gradients are unscaled. What is stepped together with one that is not finite is left
                as it was, and so is all after it, until `scaler.step(optimizer)`; what came before is not.

        Returns:
            What has a `remove()`, and is a context manager that calls it.

        Raises:
            ValueError: if an argument is not allowed, a group asks for what needs all gradients at once
                (`max_norm` without `clip_by_last_norm`, `skip_nonfinite`, `statistics`, `dog`,
                `Prodigy`, `differentiable`), parameters lie on several devices, are stepped in backward
                already, or may be trained by several processes.
            TypeError: if `scaler` is no GradScaler.
        """
        if self.steps_in_backward:
            raise ValueError("in_backward() is on: call remove() on what it has returned first")
        self._backward = InBackward(self, every, hold, clip_by_last_norm, scaler)
        return self._backward

    def accumulating(self) -> AbstractContextManager[None]:
        """Have backward passes step nothing, also with `in_backward()`, until the end of the `with` block."""
        return nullcontext() if self._backward is None else self._backward.accumulating()

    @property
    def steps_in_backward(self) -> bool:
        """Whether `in_backward()` is on."""
        return self._backward is not None and self._backward.is_on

    @uncompiled
    def offload(self, *, early: bool = True, from_cpu: bool = False) -> Offload:
        """Keep state on the host, and step there, while parameters lie on a device.

        Gradients are fetched while backward goes on, the host's kernels step a copy of each parameter, of its
        dtype (with what `weight_bits` holds beside it, its float32 weights), and what they have written is
        sent back. All else is as it is without: `docs/offload.md` says what that costs.

        State that is on the device already comes to the host with the next step. Parameters of the CPU are
        stepped where they are.

        Args:
            early: fetch gradients when they are complete, and again if autograd knows that they were changed
                since; False fetches them in the step, for loops that write to `grad.data`.
            from_cpu: treat parameters of the CPU as if they were on a device, as tests do.

        Returns:
            What has a `remove()`, and is a context manager that calls it; and a `refresh()`.

        Raises:
            ValueError: if steps are on the host already, a parameter is a tensor subclass (DTensor), two of
                them share memory, or a group asks for `differentiable`.
            RuntimeError: if a parameter was made in inference mode.
        """
        if self._offload is not None and self._offload.is_on:
            raise ValueError("offload() is on: call remove() on what it has returned first")
        self.flush()
        offload = Offload(self, self._recipes(), early, from_cpu)
        with offload.at_home(self.param_groups, self.state):
            self._offload = offload
        return offload
