"""Parameters of a device, each with what is stepped on the host in its place, and the ways between them."""

from __future__ import annotations

import weakref
from itertools import count
from typing import Any

import torch
from torch import Tensor

from thalweg.optimizer.hooks import Hook, can_be_hooked
from thalweg.storage.layout import has_memory, home_order, is_plain, like_home, order, overlaps_itself

_CLOCK = count(1)

STREAMED = ("cuda", "xpu")
"""Types of devices that copy while they compute, from and to pinned memory."""


class Lane:
    """The way between a device and the host: with streams of its own, where the device has streams.

    Args:
        device: of the parameters. One without streams, or the CPU itself, is waited for in each copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: Any = torch.get_device_module(device) if device.type in STREAMED else None
        if self._module is not None:
            self._inbound, self._outbound = (self._module.Stream(device) for _ in range(2))

    @property
    def is_capturing(self) -> bool:
        """Whether what is launched goes into a graph."""
        # Imported with the first gradient: `import thalweg` stays light.
        from thalweg.lowering.gpu import tables

        return tables.is_capturing(self._device)

    def memory(self, like: Tensor) -> Tensor:
        """Return new memory of the host for the elements of a tensor, in their order."""
        pinned = {} if self._module is None else {"pin_memory": True}
        return like_home(like, like.dtype, device="cpu", **pinned)

    def fetch(self, to: Tensor, tensor: Tensor) -> Any:
        """Begin to copy `tensor` to the host, as it is after all that was launched so far.

        Returns:
            An event whose `synchronize()` waits until it is there; None, if it is there already.
        """
        if self._module is None:
            to.copy_(tensor)
            return None
        self._inbound.wait_stream(self._module.current_stream(self._device))
        with self._module.stream(self._inbound):
            to.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._inbound)
        return self._inbound.record_event()

    def send(self, to: Tensor, tensor: Tensor) -> Any:
        """Begin to copy `tensor` to the device, after all that was launched so far, as `fetch` does."""
        if self._module is None:
            to.copy_(tensor)
            return None
        self._outbound.wait_stream(self._module.current_stream(self._device))
        with self._module.stream(self._outbound):
            to.copy_(tensor, non_blocking=True)
        return self._outbound.record_event()

    def join(self) -> None:
        """Have what is launched from now on wait for what was sent."""
        if self._module is not None:
            self._module.current_stream(self._device).wait_stream(self._outbound)


class Mirror:
    """A parameter, and a tensor of the host of the same dtype and order that is stepped in its place.

    Each side is brought to the other when its version counter says that it was written.

    Args:
        param: the parameter.
        lane: the way to its device.
        early: whether gradients are fetched when they are complete.

    Attributes:
        home: the tensor of the host.
        came: a number that is larger for those whose gradients were complete later.
    """

    def __init__(self, param: Tensor, lane: Lane, early: bool) -> None:
        check(param)
        self.param = param
        self.home = lane.memory(param)
        self._lane, self._early = lane, early
        self._seen: tuple[int, int] | None = None
        self._sent: Any = None
        self._buffer: Tensor | None = None
        self._arrived: Any = None
        self._source: Any = None
        self._source_version = -1
        self._arrivals, self._expected = 0, 1
        self.came = 0
        self.pull()
        self._hook = Hook(self, param) if can_be_hooked(param) else None

    def remove(self) -> None:
        """Ask for no gradient any more."""
        if self._hook is not None:
            self._hook.remove()

    def is_apt(self) -> bool:
        """Say whether the home is still like the parameter, which may have been given other memory."""
        param = self.param
        if param.data_ptr() == self._place and param.dtype == self.home.dtype:
            return True
        alike = param.dtype == self.home.dtype and param.shape == self.home.shape
        return alike and param.device == self._device and home_order(param) == order(self.home)

    def pull(self) -> None:
        """Bring the parameter home, if it was written since."""
        if self._seen == (self.param._version, self.param.data_ptr()):
            return
        self.await_sent()
        with torch.no_grad():
            self.home.copy_(self.param)
        self._note()

    def await_sent(self) -> None:
        """Wait until nothing of the home is on its way, before it is written."""
        if self._sent is not None:
            self._sent.synchronize()
            self._sent = None

    def forget_weights(self) -> None:
        """Bring the parameter home before the next step, also if nobody says that it was written."""
        self._seen = None

    def push(self) -> None:
        """Begin to send the home to the parameter, if it was written since."""
        if self.home._version == self._home_version:
            return
        with torch.no_grad():
            self._sent = self._lane.send(self.param, self.home)
        self._note()

    def _note(self) -> None:
        self._home_version = self.home._version
        self._place, self._device = self.param.data_ptr(), self.param.device
        self._seen = (self.param._version, self._place)

    def arrived(self, param: Tensor, hook: Hook) -> None:
        """Begin to fetch a gradient that is complete, unless others are expected to come before a step."""
        self._arrivals += 1
        self.came = next(_CLOCK)
        if self._early and self._lane.is_capturing:
            self._early = False  # replays tell nobody when gradients come
        grad = param.grad
        is_due = self._early and self._arrivals >= self._expected
        if is_due and grad is not None and _can_be_fetched(grad):
            self._fetch(grad)

    def bring_gradient(self) -> None:
        """Begin to fetch the gradient, if what was fetched is not what it is now.

        What was fetched in vain, because more was added to it, or it was clipped, is not fetched in backward
        the next time.

        Raises:
            TypeError: if it is a tensor subclass.
        """
        grad = self.param.grad
        arrivals, self._arrivals = self._arrivals, 0
        if grad is None:
            self.home.grad = None
            return
        self.await_sent()
        if not has_memory(grad):
            raise TypeError(
                f"offload() takes plain tensors; a parameter of shape {tuple(self.param.shape)} has a "
                f"{type(grad).__name__} as its gradient"
            )
        if not _can_be_fetched(grad):
            self._set_gradient(grad.detach().to("cpu", copy=True))
            return
        if not self._early:
            self._source = None
        is_here = self._source is not None and self._source() is grad
        is_same = is_here and not grad.is_inference() and grad._version == self._source_version
        self._expected = max(1, arrivals) if is_same else arrivals + 1
        if not is_same:
            self._fetch(grad)
        assert self._buffer is not None, "it was fetched"
        self._set_gradient(self._buffer)

    def await_gradient(self) -> None:
        """Wait until the gradient is here."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None

    def forget_gradient(self) -> None:
        """Fetch the gradient anew for the next step, also if it stays as it is."""
        self._source = None

    def _fetch(self, grad: Tensor) -> None:
        whole = grad.detach()
        if not is_plain(whole) or order(whole) is None:
            whole = whole.resolve_conj().resolve_neg().contiguous()
        buffer = self._buffer
        if buffer is None or buffer.dtype != whole.dtype or order(buffer) != order(whole):
            buffer = self._buffer = self._lane.memory(whole)
        self._arrived = self._lane.fetch(buffer, whole)
        self._source = weakref.ref(grad)
        self._source_version = -1 if grad.is_inference() else grad._version

    def _set_gradient(self, grad: Tensor) -> None:
        if grad.dtype != self.home.dtype and hasattr(self.home, "grad_dtype"):
            self.home.grad_dtype = None  # as the parameter's must be
        self.home.grad = grad


def _can_be_fetched(grad: Tensor) -> bool:
    """Say whether a gradient is memory as it stands, and not rows that are named."""
    return has_memory(grad) and grad.layout == torch.strided


def check(param: Tensor) -> None:
    """Raise if a parameter cannot be stepped elsewhere than where it lies."""
    name = f"a parameter of shape {tuple(param.shape)}"
    if not has_memory(param) or param.layout != torch.strided:
        raise ValueError(f"offload() takes plain tensors; {name} is a {type(param).__name__}, {param.layout}")
    if overlaps_itself(param):
        raise ValueError(f"offload() takes tensors whose elements lie apart; {name} has {param.stride()}")
    if param.is_inference():
        raise RuntimeError(f"{name} was made in inference mode, where nobody counts how often it is written")
