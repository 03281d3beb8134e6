"""Selectors: who is meant by a glob, an expression, a class of modules, a predicate or several of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from thalweg.optimizer.groups.params import Param

Selector = (
    str | re.Pattern[str] | type[nn.Module] | Callable[[str, nn.Module, Tensor], bool] | tuple[Any, ...]
)


def check_selector(selector: Any, where: str) -> None:
    """Raise if something is no selector; `where` is what the error calls it."""
    if isinstance(selector, tuple):
        for one in selector:
            check_selector(one, where)
        return
    is_class = isinstance(selector, type)
    if is_class and issubclass(selector, nn.Module):
        return
    if is_class or not (isinstance(selector, (str, re.Pattern)) or callable(selector)):
        raise TypeError(
            f"{where} must be a glob, a compiled regular expression, a subclass of torch.nn.Module, a "
            f"predicate on (name, module, parameter) or a tuple of these, not {selector!r}"
        )


def selects(selector: Any, param: Param) -> bool:
    """Say whether a selector means a parameter."""
    if isinstance(selector, tuple):
        return any(selects(one, param) for one in selector)
    if isinstance(selector, (str, re.Pattern)):
        return is_named_by(selector, param.name)
    if isinstance(selector, type):
        return any(isinstance(module, selector) for module in param.modules)
    return bool(selector(param.name, param.modules[-1], param.tensor))


def is_named_by(selector: str | re.Pattern[str], name: str) -> bool:
    """Say whether a glob or an expression means a name."""
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    return selector.search(name) is not None


def parts(selector: Any) -> Iterator[Any]:
    """Give the selectors that a tuple of tuples is made of."""
    if not isinstance(selector, tuple):
        yield selector
        return
    for one in selector:
        yield from parts(one)


def said(selector: Any) -> str:
    """Return a selector in few words."""
    if isinstance(selector, tuple):
        return " or ".join(map(said, selector))
    if isinstance(selector, str):
        return selector
    if isinstance(selector, re.Pattern):
        return f"/{selector.pattern}/"
    return getattr(selector, "__name__", None) or repr(selector)
