"""docs/errors.md has every reason that the services give, and none that they do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.oracle import documented_reasons, is_documented

SERVICES = Path(__file__).parents[2] / "services" / "burnish_services"
# Where the reason stands among the arguments.
PLACES = {
    "InvalidRequest": 0, "NotFound": 0, "AlreadyExists": 0, "PreconditionFailed": 0, "PermissionDenied": 0,
    "Overloaded": 0, "Unavailable": 0, "ServiceError": 1, "RunError": 1, "Failure": 1, "EngineFailure": 0,
    "SampleError": 0,
}  # fmt: skip


def _is_reason(value: object) -> bool:
    return isinstance(value, str) and value.isupper() and value.isascii() and value.replace("_", "").isalpha()


def reasons(tree: ast.Module) -> Iterator[str]:
    """The reasons that a module gives: in calls, and in names and attributes that are called so."""
    names = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            place = PLACES.get(ast.unparse(node.func).rsplit(".", 1)[-1])
            if place is not None and len(node.args) > place:
                given = node.args[place]
                value = given.value if isinstance(given, ast.Constant) else names.get(ast.unparse(given))
                if _is_reason(value):
                    yield str(value)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target) == "reason" for target in targets) and _is_reason(node.value.value):
                yield str(node.value.value)


def test_every_reason_that_is_given_is_on_the_page() -> None:
    found = {
        reason: path.name
        for path in sorted(SERVICES.rglob("*.py"))
        for reason in reasons(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(found) > 60
    assert {reason: place for reason, place in found.items() if not is_documented(reason)} == {}


def test_every_reason_on_the_page_is_given_somewhere() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in SERVICES.rglob("*.py"))
    gone = {reason for reason in documented_reasons() - {"BAD_…"} if f'"{reason}"' not in source}
    assert gone == {"TOO_LARGE", "BAD_TEXT"}, "but for those that the client gives"
