"""Writes the schemas in this folder anew from checkouts of the projects that they are of: `python -m
tests.deploy.crds.vendor FOLDER`, where FOLDER has `keda`, `prometheus-operator`, `cert-manager` and `jobset`.

Descriptions are left out, and pod templates, which tests check against Kubernetes' own schemas, are cut to any object:
that is nine tenths of the files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
# Schema's file: repository, tag, path of the CRD, version.
SOURCES = {
    "scaledobject": ("keda", "v2.20.2", "config/crd/bases/keda.sh_scaledobjects.yaml", "v1alpha1"),
    "podmonitor": (
        "prometheus-operator",
        "v0.93.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "v1",
    ),
    "prometheusrule": (
        "prometheus-operator",
        "v0.93.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "v1",
    ),
    "certificate": ("cert-manager", "v1.21.1", "deploy/crds/cert-manager.io_certificates.yaml", "v1"),
    "jobset": ("jobset", "v0.12.0", "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml", "v1alpha2"),
}


def trimmed(schema: Any, path: tuple[str, ...] = ()) -> Any:
    """A schema without descriptions, and strict: what it does not name is refused, unless it says otherwise."""
    if isinstance(schema, list):
        return [trimmed(item, path) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if path[-4:] == ("replicatedJobs", "template", "spec", "template"):
        return {"type": "object"}
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: trimmed(inner, (*path, name)) for name, inner in value.items()}
        elif key != "description" and not key.startswith("x-"):
            kept[key] = trimmed(value, path)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or not path or path == ("metadata",)
    if "properties" in schema and not is_open:
        kept.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]}
    return kept


def main(checkouts: Path) -> None:
    """Writes every schema."""
    for name, (repository, tag, path, version) in SOURCES.items():
        command = ["git", "-C", str(checkouts / repository), "show", f"{tag}:{path}"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        crd = yaml.safe_load(found)
        (schema,) = [v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == version]
        group = f"{crd['spec']['group']}/{version}"
        whole = trimmed(schema) | {"$comment": f"{crd['spec']['names']['kind']} of {group}, {repository} {tag}"}
        (HERE / f"{name}.json").write_text(json.dumps(whole, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
