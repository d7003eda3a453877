"""Engines by name; a concrete engine's libraries are imported only when it is asked for."""

from __future__ import annotations

from enum import StrEnum

from burnish_services.engine.base import Engine, EngineSettings


class EngineKind(StrEnum):
    """The engines there are."""

    VLLM = "vllm"
    TRANSFORMERS = "transformers"
    FAKE = "fake"


class EngineUnavailable(RuntimeError):
    """The engine's libraries are not installed; the message names the extra."""


def create_engine(kind: EngineKind | str, settings: EngineSettings) -> Engine:
    """An engine that is not started yet. Raises ValueError for an unknown name and EngineUnavailable."""
    try:
        kind = EngineKind(kind)
    except ValueError as error:
        raise ValueError(f"unknown engine {kind!r}; expected one of {', '.join(EngineKind)}") from error
    try:
        if kind is EngineKind.VLLM:
            from burnish_services.engine.vllm_engine import VllmEngine

            return VllmEngine(settings)
        if kind is EngineKind.TRANSFORMERS:
            from burnish_services.engine.transformers_engine import TransformersEngine

            return TransformersEngine(settings)
    except ImportError as error:
        extra = "burnish[cpu] or burnish[gpu]" if kind is EngineKind.VLLM else "burnish[services]"
        raise EngineUnavailable(f"the {kind} engine needs {extra} installed: {error}") from error
    from burnish_services.engine.fake import FakeEngine

    return FakeEngine(settings)
