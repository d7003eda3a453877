"""Parameters of commands that stand for several options: a command takes one value, people give options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

REQUIRED = inspect.Parameter.empty

Command = Callable[..., None]


def expanding(
    options: Mapping[str, tuple[Any, Any]],
    parameters: Collection[str],
    make: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    first: bool = False,
) -> Callable[[Command], Command]:
    """Gives a command `options`, by name the annotation and the default (or REQUIRED), in place of `parameters`, which
    `make` makes of what was given. They are listed after the command's own, or before them."""
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]

    def expand(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name not in parameters
        ]

        @functools.wraps(function)
        def wrapper(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            function(**make(chosen), **given)

        combined = [*added, *own] if first else [*own, *added]
        wrapper.__signature__ = signature.replace(parameters=combined)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in combined} | {"return": None}
        return wrapper

    return expand
