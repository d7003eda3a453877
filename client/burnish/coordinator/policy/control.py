"""Runs to compare with. Pure."""

from __future__ import annotations

from enum import StrEnum


class Control(StrEnum):
    """A run to compare with."""

    NONE = "none"
    RANDOM = "random"  # what a recipe selects by its signals, as many rows drawn at random instead
