"""What Helm makes of the chart. The library is Helm's own, and asks no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy" / "helm" / "burnish"
PROFILES = sorted(path.stem for path in (CHART / "profiles").glob("*.yaml"))
RELEASE = "demo"
NAMESPACE = "polishing"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not everywhere is the fast one built

Manifest = dict[str, Any]


class Refused(ValueError):
    """The chart does not take these values; the message says why."""


def profile(name: str) -> dict[str, Any]:
    """Values of a profile."""
    return helm_python.values_from_yaml((CHART / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"))


def laid(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`values` laid over others, key by key, as Helm does it with several files."""
    found = dict(over)
    for key, value in values.items():
        below = found.get(key)
        found[key] = laid(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return found


def render(values: dict[str, Any], *, release: str = RELEASE) -> list[Manifest]:
    """Everything that an installation with these values makes, in the order of the templates. Raises Refused."""
    with helm_python.Chart.load(CHART) as chart:
        try:
            made = chart.render(values, name=release, namespace=NAMESPACE, is_install=True)
        except helm_python.HelmError as error:
            raise Refused(str(error)) from None
    texts = [made[name] for name in sorted(made) if not name.endswith(".txt")]
    return [manifest for text in texts for manifest in yaml.load_all(text, _LOADER) if manifest]


def problems(values: dict[str, Any]) -> list[str]:
    """What `helm lint --strict` finds. Notes such as that there is no icon are none."""
    report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE)
    found = [f"{m['path']}: {m['error']}" for m in report["messages"] if m["severity"] >= 2]
    return [*found, *report["errors"]]


def golden(name: str) -> str:
    """A profile's manifests as one file, for people to read."""
    parts = render(profile(name))
    for manifest in parts:
        # A thousand lines that stand in files/ already.
        for key in manifest.get("data", {}) if manifest["kind"] == "ConfigMap" else ():
            if key == "burnish.json":
                manifest["data"][key] = "(deploy/grafana/burnish.json)"
    return yaml.safe_dump_all(parts, sort_keys=True, width=120)
