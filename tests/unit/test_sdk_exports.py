"""What `import burnish` offers and costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import burnish
from burnish import _types


def test_all_is_sorted_and_everything_in_it_exists() -> None:
    assert burnish.__all__ == sorted(burnish.__all__)
    for name in burnish.__all__:
        assert getattr(burnish, name) is not None


def test_every_error_and_type_is_exported() -> None:
    for module in ("burnish._errors", "burnish._types"):
        own = {
            name
            for name, value in vars(import_module(module)).items()
            if inspect.isclass(value) and value.__module__ == module
        }
        assert own <= set(burnish.__all__), own - set(burnish.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = burnish.Clinet  # type: ignore[attr-defined]


def loaded_after(code: str) -> set[str]:
    """The modules in a new process that ran `code`."""
    script = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_after("import burnish, burnish.api")
    assert not loaded & {"grpc", "numpy", "pydantic", "duckdb", "asyncio", "torch", "vllm"}


def test_a_client_with_explicit_endpoints_needs_neither_settings_nor_engines() -> None:
    loaded = loaded_after("import burnish; burnish.Client('127.0.0.1:1').close()")
    assert not loaded & {"pydantic", "duckdb", "pyarrow", "torch", "transformers", "vllm", "burnish_services"}


def test_local_services_load_no_engine() -> None:
    loaded = loaded_after("import burnish.local")
    assert not loaded & {"torch", "transformers", "vllm", "lancedb", "burnish_services"}


def test_types_are_frozen() -> None:
    message = _types.Message(_types.Role.USER, "hi")
    with pytest.raises(AttributeError):
        message.content = "ho"  # type: ignore[misc]
