"""Hyperparameters: what they may be, and what a group says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Hyper:
    """One hyperparameter: its name and the values it may take.

    Args:
        name: the constructor's argument and the parameter group's key.
        low: smallest value allowed.
        high: bound above; `open_high` says that it is not itself allowed.
        pair: whether the value is a pair, such as Adam's betas.
        flag: whether the value is on or off, by its truth.
        extra: whether torch's optimizer of this name lacks it. A group then names it only where it is not at
            its default, so that groups and checkpoints have torch's keys and no others.
        default: what holds where a group does not name an extra one; None, which it then may be, means that
            there is nothing of the kind.
        words: what it may be, if it is one of several words.
        open_low: whether `low` is not itself allowed.
        whole: whether it must be an integer.
        infinite: whether it may be infinity.
        unsaid: what holds where a checkpoint does not name it; None, if every checkpoint has to.
    """

    name: str
    low: float = 0.0
    high: float = math.inf
    open_high: bool = False
    pair: bool = False
    flag: bool = False
    extra: bool = False
    default: Any = False
    words: tuple[str, ...] = ()
    open_low: bool = False
    whole: bool = False
    infinite: bool = False
    unsaid: Any = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that it is: none of a flag, with `.0` and `.1` of a pair."""
        if self.flag or self.words:
            return ()
        return (f"{self.name}.0", f"{self.name}.1") if self.pair else (self.name,)

    @property
    def allowed(self) -> str:
        """The allowed values in words, as errors and tables show them."""
        if self.flag:
            return "True or False"
        if self.words:
            return " or ".join(map(repr, self.words))
        if -self.low == self.high == math.inf:
            interval = "that is finite"
        elif self.high == math.inf:
            interval = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        else:
            begin, end = "(" if self.open_low else "[", ")" if self.open_high else "]"
            interval = f"in {begin}{self.low:g}, {self.high:g}{end}"
        one = "an integer" if self.whole else "a number"
        nothing = " or None" if self.extra and self.default is None else ""
        return f"two numbers {interval}{nothing}" if self.pair else f"{one} {interval}{nothing}"

    def check(self, value: Any) -> None:
        """Raise ValueError or TypeError, naming argument, value and what is allowed."""
        found = self.read(value)
        if self.flag or self.words or found is None:
            return
        for number in found if self.pair else (found,):
            x = float(number.detach() if isinstance(number, torch.Tensor) else number)
            above = self.low < x if self.open_low else self.low <= x
            below = x < self.high if self.open_high else x <= self.high
            is_some = math.isfinite(x) or (self.infinite and x == math.inf)
            if not (above and below and is_some) or (self.whole and x != int(x)):
                raise ValueError(self._refusal(value))

    def of(self, group: Mapping[str, Any], keep: bool = False) -> Any:
        """Return what `group` says, as `read` returns it.

        Raises:
            KeyError: if it does not say, and the hyperparameter is not `extra`.
        """
        return self.read(group.get(self.name, self.default) if self.extra else group[self.name], keep)

    def is_default(self, value: Any) -> bool:
        """Say whether a value of an extra hyperparameter is the one that holds where a group names none."""
        if self.flag:
            return not self._truth(value)
        return value is self.default or (type(value) is type(self.default) and value == self.default)

    def read(self, value: Any, keep: bool = False) -> Any:
        """Return a value as steps compute with it: a bool, a word, a float, or two of them.

        A tensor is read out, unless it is on a GPU, which would have to be waited for, or `keep` says to
        leave it, 0-dim, for the sake of its graph.

        Raises:
            TypeError, ValueError: if it is nothing of the kind, whatever its size.
        """
        if self.flag:
            return self._truth(value)
        if self.words:
            return self._word(value)
        if value is None and self.extra and self.default is None:
            return None
        if not self.pair:
            return self._number(value, value, keep)
        first, second = self._parts(value)
        return self._number(first, value, keep), self._number(second, value, keep)

    def _word(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(self._refusal(value))
        if value not in self.words:
            raise ValueError(self._refusal(value))
        return value

    def _truth(self, value: Any) -> bool:
        try:
            return bool(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{self._refusal(value)}: {error}") from None

    def _parts(self, value: Any) -> Sequence[Any]:
        """Return the two values of anything that has a first and a second, and no third."""
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return value
        if isinstance(value, (str, bytes, Mapping)):
            raise TypeError(self._refusal(value))
        try:
            length, parts = len(value), (value[0], value[1])
        except IndexError:
            raise ValueError(self._refusal(value)) from None
        except (TypeError, KeyError):
            raise TypeError(self._refusal(value)) from None
        if length != 2:
            raise ValueError(self._refusal(value))
        return parts

    def _number(self, number: Any, value: Any, keep: bool) -> Any:
        """Return `number`, which is `value` or one of a pair that `value` is."""
        if type(number) is float:
            return number
        if isinstance(number, bool) and self.extra:
            raise TypeError(self._refusal(value))  # torch takes one for a number; here it would be a switch
        if isinstance(number, torch.Tensor):
            if number.numel() != 1:
                raise ValueError(f"Tensor {self.name} must be 1-element, not {tuple(number.shape)}")
            if (keep or not _is_at_hand(number)) and not number.is_complex():
                return number.reshape(()) if keep else number
            number = number.detach().item()
        try:
            if getattr(number, "shape", ()) != ():
                raise TypeError
            # What cannot be multiplied by a float, such as a string or a Decimal, is no number to torch.
            return float(number * 1.0)
        except (TypeError, ValueError):
            raise TypeError(self._refusal(value) + _hint(number)) from None

    def _refusal(self, value: Any) -> str:
        return f"{self.name} must be {self.allowed}, not {value!r}"


def _is_at_hand(tensor: torch.Tensor) -> bool:
    """Say whether a tensor can be read without waiting for a device."""
    return tensor.device.type == "cpu"


def _hint(number: Any) -> str:
    try:
        is_written_out = isinstance(number, str) and math.isfinite(float(number))
    except ValueError:
        return ""
    return ", a string; YAML 1.1 reads 1e-3 as one, and 1.0e-3 as a number" if is_written_out else ""


LR = Hyper("lr")
EPS = Hyper("eps")
WEIGHT_DECAY = Hyper("weight_decay", unsaid=0.0)  # torch's SparseAdam has none
BETAS = Hyper("betas", high=1.0, open_high=True, pair=True)
MAXIMIZE = Hyper("maximize", flag=True)
CAPTURABLE = Hyper("capturable", flag=True)
DIFFERENTIABLE = Hyper("differentiable", flag=True)
COMMON = (MAXIMIZE, DIFFERENTIABLE)
"""What every optimizer can be told, in torch and here."""
