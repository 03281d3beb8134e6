"""Functions in a user's file that are cached by functools, on their way to worker processes.

Pickle sends them as a name to be imported, which worker processes cannot do. They are sent as an empty cache
that is then given its function, in two steps because a recursive function refers to its own cache.
"""

import functools
from collections.abc import Callable
from typing import Any

Cached = type(functools.cache(lambda: None))


def reduce_cached(cached: Any) -> Any:
    """What `copyreg` is to do with such a function."""
    if not cached.__module__.startswith("_thalweg_task_"):
        return cached.__qualname__
    parameters = cached.cache_parameters()
    return (
        _empty_cache,
        (parameters["maxsize"], parameters["typed"]),
        cached.__wrapped__,
        None,
        None,
        _fill_cache,
    )


def _empty_cache(maxsize: int | None, typed: bool) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return forward.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    return functools.lru_cache(maxsize, typed)(forward)


def _fill_cache(cached: Any, function: Callable[..., Any]) -> None:
    functools.update_wrapper(cached.__wrapped__, function)
