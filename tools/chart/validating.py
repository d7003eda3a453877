"""Whether manifests are what Kubernetes, and the makers of the custom resources, say that they are."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
from referencing import Registry, Resource

from tools.chart.rendering import ROOT, Manifest

CRDS = ROOT / "tests" / "deploy" / "crds"
CUSTOM = {
    "keda.sh/v1alpha1/ScaledObject": "scaledobject",
    "monitoring.coreos.com/v1/PodMonitor": "podmonitor",
    "monitoring.coreos.com/v1/PrometheusRule": "prometheusrule",
    "cert-manager.io/v1/Certificate": "certificate",
    "jobset.x-k8s.io/v1alpha2/JobSet": "jobset",
}


def versions(count: int = 4) -> list[str]:
    """The newest minors of Kubernetes whose schemas are there."""
    return list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-count:]


@functools.cache
def _core(kind: str, version: str) -> jsonschema.Draft202012Validator:
    """Built once: kubernetes_validate.validate itself reads four megabytes of definitions for each manifest."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}-local-strict"
    *group, api, name = kind.split("/")
    prefix = f"{group[0].split('.')[0]}-" if group else ""
    schema = json.loads((folder / f"{name.lower()}-{prefix}{api}.json").read_text(encoding="utf-8"))
    registry: Registry[Any] = Resource.from_contents(schema) @ _definitions(folder)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(folder: Path) -> Registry[Any]:
    return Resource.from_contents(json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))) @ Registry()


@functools.cache
def _custom(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((CRDS / f"{name}.json").read_text(encoding="utf-8")))


def complaints(manifest: Manifest, version: str) -> Iterator[str]:
    """What is wrong with a manifest in a cluster of this version."""
    kind = f"{manifest['apiVersion']}/{manifest['kind']}"
    validator = _custom(CUSTOM[kind]) if kind in CUSTOM else _core(kind, version)
    for error in validator.iter_errors(manifest):
        where = ".".join(str(part) for part in error.absolute_path)
        yield f"{kind} {manifest['metadata']['name']}, {where}: {error.message[:300]}"
    if kind.endswith("/JobSet"):
        # Their pods were cut out of the JobSet's own schema.
        for job in manifest["spec"]["replicatedJobs"]:
            name = {"name": f"{manifest['metadata']['name']}-{job['name']}"}
            yield from complaints(
                {"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": job["template"]["spec"]}, version
            )
