"""Values that make no sense are refused, with a message that says what was wrong and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.support import LEAST
from tools.chart.rendering import Refused, laid, profile, render

ELSEWHERE = {"rewriting": {"enabled": False}, "coordinator": {"settings": {"rewriting_endpoint": "dns:///r:1"}}}
RUN = {"storage": {"runs": {"enabled": True}}, "coordinator": {"enabled": True, "data": ["demo"]}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    # Of one value: the schema.
    ({"replicas": 2}, "replicas"),
    ({"scoring": {"replica": 2}}, "replica"),
    ({"scoring": {"replicas": 0}}, "minimum"),
    ({"scoring": {"replicas": "two"}}, "want integer"),
    ({"engine": "sglang"}, "engine"),
    ({"image": {"device": "rocm"}}, "device"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"image": {"tag": "a b"}}, "tag"),
    ({"ports": {"grpc": 70000}}, "maximum"),
    ({"ports": {"https": 443}}, "https"),
    ({"server": {"options": {"max-modellen": 1}}}, "max-modellen"),
    ({"server": {"options": {"dtype": "int8"}}}, "dtype"),
    ({"server": {"options": {"port": 1}}}, "port"),
    ({"server": {"options": {"max-message-bytes": 1}}}, "minimum"),
    ({"server": {"settings": {"max_items": 1}}}, "max_items"),
    ({"scoring": {"settings": {"max_itmes": 1}}}, "max_itmes"),
    ({"scoring": {"settings": {"store_uri": "x"}}}, "store_uri"),
    ({"rewriting": {"settings": {"max_items": 0}}}, "minimum"),
    ({"training": {"settings": {"nodes": 2}}}, "nodes"),
    ({"embedding": {"storeUri": "/vectors"}}, "storeUri"),
    ({"storage": {"models": {"path": "models"}}}, "path"),
    ({"storage": {"models": {"accessModes": ["RWX"]}}}, "accessModes"),
    ({"storage": {"models": {"size": "much"}}}, "size"),
    ({"storage": {"objects": {"roots": ["/models"]}}}, "roots"),
    ({"storage": {"objects": {"endpoint": "minio:9000"}}}, "endpoint"),
    ({"server": {"gpuResource": "gpu"}}, "gpuResource"),
    ({"scoring": {"autoscaling": {"kind": "vpa"}}}, "kind"),
    ({"scoring": {"autoscaling": {"load": 1.5}}}, "load"),
    ({"scoring": {"strategy": {"maxSurge": "1"}}}, "maxSurge"),
    ({"podSecurity": {"runAsUser": 0}}, "minimum"),
    ({"podSecurity": {"privileged": True}}, "privileged"),
    ({"coordinator": {"recipe": "magic"}}, "recipe"),
    ({"coordinator": {"run": "../other"}}, "run"),
    ({"coordinator": {"options": {"round": 1}}}, "round"),
    ({"coordinator": {"recipe": "clear", "options": {"share-loss": 0.1}}}, "share-loss"),
    ({"coordinator": {"options": {"scoring-endpoint": "x"}}}, "scoring-endpoint"),
    ({"coordinator": {"settings": {"conect_timeout": 1}}}, "conect_timeout"),
    ({"coordinator": {"settings": {"token": "secret"}}}, "token"),
    ({"coordinator": {"failAtOnce": [0]}}, "minimum"),
    ({"networkPolicy": {"clientLabels": {"a": 1}}}, "clientLabels"),
    ({"monitoring": {"keda": {"prometheus": "prometheus:9090"}}}, "prometheus"),
    # Of several: templates/_check.tpl.
    ({"image": {"digest": f"sha256:{'0' * 64}"}}, "scoring.image.digest"),
    ({"insecure": False}, "tls.secretName, or set tls.certManager.enabled"),
    ({"insecure": False, "tls": {"secretName": "tls"}}, "tokens.secretName, or set tls.requireClientCertificates"),
    ({"tokens": {"secretName": "t"}}, "leave one of both out"),
    ({"insecure": False, "tls": {"certManager": {"enabled": True}}, "tokens": {"secretName": "t"}}, "issuerRef.name"),
    ({"tls": {"requireClientCertificates": True}}, "needs a certificate of the servers"),
    ({"tokens": {"guardHealth": True}}, "guardHealth needs tokens.secretName"),
    ({"ports": {"health": 50051}}, "must differ"),
    ({"model": ""}, "no model"),
    ({"model": "/models/small"}, "storage.models.enabled"),
    ({"embedding": {"replicas": 2}}, r"embedding.replicas is 2.*one writer.*docs/coverage.md"),
    ({"embedding": {"storeUri": "s3://a/b", "replicas": 2}}, "there are no replicas that only read"),
    ({"training": {"replicas": 2}}, "queue of runs is one process's"),
    ({"server": {"replicas": 2}}, "embedding has one replica"),
    ({"embedding": {"autoscaling": {"kind": "hpa"}}}, "scoring and rewriting can be scaled"),
    ({"embedding": {"state": {"kind": "emptyDir"}}}, "would go with the pod.*embedding.storeUri"),
    ({"training": {"state": {"kind": "ephemeral"}}}, "queue of runs and their checkpoints would go with the pod"),
    ({"training": {"state": {"kind": "runs"}}}, "set storage.runs.enabled"),
    ({"scoring": {"state": {"kind": "claim"}}}, "replicas cannot share a state directory"),
    ({"scoring": {"state": {"kind": "runs"}}}, "only training may write"),
    ({"scoring": {"strategy": {"maxUnavailable": 0}}}, "no pod could ever be replaced"),
    ({"scoring": {"strategy": {"maxSurge": "0%", "maxUnavailable": "0%"}}}, "no pod could ever be replaced"),
    ({"scoring": {"autoscaling": {"kind": "keda"}}}, "monitoring.keda.prometheus"),
    ({"scoring": {"autoscaling": {"kind": "hpa", "minReplicas": 0}}}, "cannot begin from nothing"),
    ({"scoring": {"autoscaling": {"kind": "hpa", "minReplicas": 5}}}, "less than minReplicas"),
    ({"training": {"nodes": 2}}, "ReadWriteMany"),
    ({"coordinator": {"enabled": True}}, "coordinator.data"),
    ({"coordinator": {"enabled": True, "data": ["demo"]}}, "storage.runs.enabled, or storage.objects.writeRoots"),
    (laid({"coordinator": {"recipe": "bmo"}}, RUN), "training.state.kind: runs"),
    (laid({"rewriting": {"enabled": False}}, RUN), "coordinator.settings.rewriting_endpoint"),
    (laid(ELSEWHERE, RUN), "say where it is by networkPolicy.extraEgress"),
    (
        laid({"insecure": False, "tls": {"secretName": "t"}, "tokens": {"secretName": "t"}}, RUN),
        "coordinator.tokenSecret",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=f"(?s){message}"):
        render(laid(values, LEAST))


def test_what_the_table_is_laid_over_is_taken() -> None:
    """Else every refusal above could be of LEAST itself."""
    render(LEAST)
    render(laid(RUN, LEAST))
    out = {"networkPolicy": {"extraEgress": [{"to": [{"podSelector": {"matchLabels": {"app": "r"}}}]}]}}
    render(laid(out, laid(ELSEWHERE, laid(RUN, LEAST))))
    render(laid({"coordinator": {"recipe": "bmo"}, "training": {"state": {"kind": "runs"}}}, laid(RUN, LEAST)))


def test_false_zero_and_empty_of_a_service_win_over_those_of_all() -> None:
    values = laid({"server": {"gpus": 2, "shmSize": "1Gi"}, "scoring": {"gpus": 0, "shmSize": ""}}, LEAST)
    values["rewriting"] = {"enabled": False}
    manifests = {m["metadata"]["name"]: m for m in render(values) if m["kind"] in ("Deployment", "StatefulSet")}
    (scoring,) = manifests["demo-burnish-scoring"]["spec"]["template"]["spec"]["containers"]
    (embedding,) = manifests["demo-burnish-embedding"]["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in scoring["resources"]["limits"]
    assert (
        embedding["resources"]["limits"]["nvidia.com/gpu"] == embedding["resources"]["requests"]["nvidia.com/gpu"] == 2
    )
    assert "shm" not in {mount["name"] for mount in scoring["volumeMounts"]}
    assert "demo-burnish-rewriting" not in manifests


def test_large_numbers_are_written_out() -> None:
    values = laid({"server": {"options": {"max-bytes-in-flight": 10737418240}}}, profile("cpu-demo"))
    values["scoring"] = {"settings": {"max_tokens_in_flight": 100000000}}
    text = str(render(values))
    assert "--max-bytes-in-flight=10737418240" in text
    assert "'100000000'" in text
    assert "e+" not in text.replace("fine-tuned", "")


def test_models_from_object_storage_leave_room_in_their_volume() -> None:
    def caches(**changes: Any) -> dict[str, list[str]]:
        made = {
            m["metadata"]["name"]: m for m in render(laid(changes, LEAST)) if m["kind"] in ("Deployment", "StatefulSet")
        }
        return {
            name.removeprefix("demo-burnish-"): [
                word.partition("=")[2]
                for word in m["spec"]["template"]["spec"]["containers"][0]["args"] if "model-cache-bytes" in word
            ]
            for name, m in made.items()
        }  # fmt: skip

    state = {"state": {"size": "1.5Gi"}}
    assert caches(server=state) == {
        "scoring": ["1288490188"], "rewriting": ["1288490188"], "embedding": ["805306368"], "training": ["805306368"]
    }  # fmt: skip
    assert caches(server={"options": {"model-cache-bytes": 5000000}})["scoring"] == ["5000000"]
    assert caches(embedding={"state": {"existingClaim": "mine"}})["embedding"] == []
    # Also where the chart knows of nothing in object storage: the server's own default may be more than there is.
    local = {"model": "/models/small", "storage": {"models": {"enabled": True}}}
    assert caches(**local, server=state)["scoring"] == ["1288490188"]
