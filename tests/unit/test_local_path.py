"""Paths as requests name them: what is none is said to be none, and never an exception that nobody expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish_services.engine.base import ModelNotFound
from burnish_services.engine.models import resolve_uri
from burnish_services.engine.places import NotLocal, Roots, local_path
from burnish_services.training.data import resolve_file
from burnish_services.training.resolve import _output
from burnish_services.training.state import RunError

NONE = [
    "",
    "file://",
    "a\x00b",
    "file:///a%00b",
    "http://[",
    "file://elsewhere/x",
    "s3://bucket/key",
    "~nobody-of-this-name/x",
]
ABSENT = [*NONE, "x" * 5000, "/" + "a/" * 3000, "no such thing"]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("a b", "a b"),
        ("/x/y", "/x/y"),
        ("file:///x%20y", "/x y"),
        ("file://localhost/x", "/x"),
        ("~/x", str(Path.home() / "x")),
        ("file:///~/x", "/~/x"),
    ],
)
def test_what_is_named(uri: str, path: str) -> None:
    assert local_path(uri) == Path(path)


@pytest.mark.parametrize("uri", NONE)
def test_what_is_no_path(uri: str) -> None:
    with pytest.raises(NotLocal, match="expected"):
        local_path(uri)
    with pytest.raises(RunError) as refused:
        _output(uri, Roots(), ())
    assert refused.value.failure.reason == "BAD_OUTPUT"
    assert "expected" in refused.value.failure.message


@pytest.mark.parametrize("uri", ABSENT)
def test_what_is_not_there(uri: str) -> None:
    with pytest.raises(ModelNotFound, match="expected"):
        resolve_uri(uri)
    with pytest.raises(RunError) as refused:
        resolve_file(uri, "data_uri", Roots())
    assert refused.value.failure.reason == "DATA_NOT_FOUND"
