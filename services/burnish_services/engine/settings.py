"""What engine settings mean: core lists and context lengths. Pure."""

from __future__ import annotations

from burnish_services.engine.base import ModelLoadError


def count_cores(cores: str) -> int:
    """How many cores a list such as `0-1,4` names. Raises ValueError where it is no such list."""
    return len(parse_cores(cores))


def parse_cores(cores: str) -> tuple[int, ...]:
    """The cores that a list such as `0-1,4` names, in order. Raises ValueError where it is no such list."""
    found: set[int] = set()
    for part in cores.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if low > high:
            raise ValueError(f"{cores!r} is not a list of cores; expected something like 0-1 or 0,2,4-7")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def context_length(wanted: int | None, of_model: int) -> int:
    """Longest sequence in tokens. Raises ModelLoadError where more is wanted than the model was made for."""
    if wanted is None:
        return of_model
    if not 2 <= wanted <= of_model:
        raise ModelLoadError(
            f"a context of {wanted} tokens was asked for; expected 2 to {of_model}, the model's own limit"
        )
    return wanted
