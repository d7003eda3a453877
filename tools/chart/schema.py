"""values.schema.json: what each value may be. Draft 7, which every Helm reads; what two values may be together is
templates/_check.tpl's."""

from __future__ import annotations

from typing import Any

from tools.chart.known import SERVICES, client_settings, recipe_options, server_options, service_settings

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WORDS: Schema = {"type": "array", "items": {"type": "string"}}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
OBJECT: Schema = {"type": "object"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
SCALAR: Schema = {"type": ["string", "number", "boolean"]}
SIZE: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"}
SIZE_OR_NONE: Schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?)?$"}
PATH: Schema = {"type": "string", "pattern": "^/.*[^/]$"}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?$"}
NAME_OR_NONE: Schema = {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", "maxLength": 253}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
ROOTS: Schema = {"type": "array", "items": {"type": "string", "pattern": "^(s3|gs|az)://[^/]+"}}
PATHS: Schema = {"type": "array", "items": PATH}
SECONDS: Schema = {"type": "string", "pattern": "^([0-9]+(h|m|s|ms))+$"}
COUNT_OR_SHARE: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+%$"}
MODES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"]},
}


def whole(minimum: int = 0) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": minimum}


def closed(**properties: Schema) -> Schema:
    """An object with these keys, all of which may be left out, and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def named(properties: dict[str, Schema]) -> Schema:
    """The same, for keys that are no words of Python's."""
    return closed(**properties)


def schema() -> Schema:
    """The whole of it."""
    roles = {service: _role(service) for service in SERVICES}
    roles["embedding"]["properties"]["storeUri"] = {"type": "string", "pattern": "^((s3|gs|az)://[^/]+.*)?$"}
    roles["training"]["properties"]["nodes"] = whole(1)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart burnish",
        **closed(
            nameOverride=NAME_OR_NONE,
            fullnameOverride=NAME_OR_NONE,
            commonLabels=LABELS,
            clusterDomain=TEXT,
            image=_IMAGE,
            imagePullSecrets=OBJECTS,
            model=TEXT,
            engine={"enum": ["vllm", "transformers", "fake"]},
            insecure=FLAG,
            tls=_TLS,
            tokens=closed(secretName=NAME_OR_NONE, key=TEXT, guardHealth=FLAG),
            storage=_STORAGE,
            server=_role(None),
            **roles,
            ports=closed(grpc=PORT, health=PORT, metrics=PORT),
            coordinator=_coordinator(),
            serviceAccount=closed(create=FLAG, name=NAME_OR_NONE, annotations=LABELS),
            podSecurity=closed(runAsUser=whole(1), runAsGroup=whole(1), fsGroup=whole(1)),
            networkPolicy=_NETWORK,
            monitoring=_MONITORING,
            **{"global": OBJECT},  # Helm's own
        ),
    }


_IMAGE = closed(
    registry=TEXT,
    repository=TEXT,
    device={"enum": ["cuda", "cpu"]},
    tag={"type": "string", "pattern": r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,122})?$"},
    digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
)
_TLS = closed(
    secretName=NAME_OR_NONE,
    certManager=closed(
        enabled=FLAG,
        issuerRef=closed(name=TEXT, kind=TEXT, group=TEXT),
        duration=SECONDS,
        renewBefore=SECONDS,
    ),
    requireClientCertificates=FLAG,
)


def _claim(size: Schema = SIZE, **more: Schema) -> Schema:
    return closed(existingClaim=NAME_OR_NONE, size=size, storageClassName=NAME_OR_NONE, accessModes=MODES, **more)


_STORAGE = closed(
    models=_claim(enabled=FLAG, path=PATH, readOnly=FLAG),
    runs=_claim(enabled=FLAG, path=PATH),
    objects=closed(
        roots=ROOTS,
        writeRoots=ROOTS,
        endpoint={"type": "string", "pattern": "^(https?://.+)?$"},
        region=TEXT,
        allowHttp=FLAG,
        credentialsSecret=NAME_OR_NONE,
    ),
    readRoots=PATHS,
    writeRoots=PATHS,
)
_NETWORK = closed(
    enabled=FLAG,
    clientLabels={**LABELS, "minProperties": 1},
    clientNamespaces={"type": "array", "items": LABELS},
    prometheus=closed(namespaceLabels=LABELS, podLabels=LABELS),
    objectStore=closed(cidrs=WORDS, credentialCidrs=WORDS, ports={"type": "array", "items": PORT}),
    extraIngress=OBJECTS,
    extraEgress=OBJECTS,
)
_MONITORING = closed(
    podMonitor=closed(enabled=FLAG, interval=SECONDS, labels=LABELS),
    prometheusRule=closed(enabled=FLAG, labels=LABELS, notServingSeconds=whole(), certificateEndsSeconds=whole()),
    dashboard=closed(enabled=FLAG, labels=LABELS),
    keda=closed(prometheus={"type": "string", "pattern": "^(https?://.+)?$"}, authenticationRef=NAME_OR_NONE),
)
_PLACING = {
    "podLabels": LABELS,
    "podAnnotations": LABELS,
    "nodeSelector": LABELS,
    "tolerations": OBJECTS,
    "affinity": OBJECT,
    "priorityClassName": TEXT,
}
_EXTRA = {
    "extraArgs": WORDS,
    "extraEnv": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "extraEnvFrom": OBJECTS,
    "extraVolumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "extraVolumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
}
_RESOURCES = closed(requests=OBJECT, limits=OBJECT, claims=OBJECTS)


def _role(service: str | None) -> Schema:
    """Of a service; None: of all of them."""
    return closed(
        enabled=FLAG,
        replicas=whole(1),
        model=TEXT,
        image=_IMAGE,
        host=TEXT,
        options=named(server_options()),
        settings=closed() if service is None else named(service_settings(service)),
        gpus=whole(),
        gpuResource={"type": "string", "pattern": "^[a-z0-9.-]+/[A-Za-z0-9_.-]+$"},
        resources=_RESOURCES,
        startSeconds=whole(10),
        grace={"type": "number", "minimum": 0},
        drainSeconds=whole(1),
        closeSeconds=whole(1),
        state=_claim(SIZE_OR_NONE, kind={"enum": ["emptyDir", "ephemeral", "claim", "runs"]}),
        cacheSize=SIZE,
        tmpSize=SIZE,
        shmSize=SIZE_OR_NONE,
        strategy=closed(maxSurge=COUNT_OR_SHARE, maxUnavailable=COUNT_OR_SHARE),
        podDisruptionBudget=closed(enabled=FLAG, maxUnavailable=COUNT_OR_SHARE),
        topologySpreadConstraints=OBJECTS,
        runtimeClassName=TEXT,
        schedulerName=TEXT,
        initContainers=OBJECTS,
        autoscaling=closed(
            kind={"enum": ["none", "keda", "hpa"]},
            minReplicas=whole(),
            maxReplicas=whole(1),
            load={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            clientsPerReplica=whole(1),
            cooldownSeconds=whole(),
            scaleDownSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
            hpaMetrics=OBJECTS,
        ),
        **_PLACING,
        **_EXTRA,
    )


def _coordinator() -> Schema:
    recipes = recipe_options()
    found = closed(
        enabled=FLAG,
        run={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$"},
        recipe={"enum": list(recipes)},
        data=WORDS,
        model=TEXT,
        options={"type": "object", "additionalProperties": {"anyOf": [SCALAR, {"type": "array", "items": SCALAR}]}},
        settings=named(client_settings()),
        clientCertificateSecret=NAME_OR_NONE,
        tokenSecret=NAME_OR_NONE,
        tokenKey=TEXT,
        volume=_claim(),
        image=_IMAGE,
        resources=_RESOURCES,
        backoffLimit=whole(),
        failAtOnce={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 255}},
        graceSeconds=whole(1),
        ttlSecondsAfterFinished={"type": ["integer", "null"], "minimum": 0},
        **_PLACING,
        **_EXTRA,
    )
    found["allOf"] = [
        {
            "if": {"properties": {"recipe": {"const": recipe}}},
            "then": {"properties": {"options": {"propertyNames": {"enum": options}}}},
        }
        for recipe, options in recipes.items()
    ]
    return found
