"""What the chart renders: valid where it is installed, as it was when somebody last looked, and of one piece."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import promql_parser
import pytest
import yaml

from burnish_services.rewriting.config import RewritingSettings
from tests.deploy.support import EVERYTHING, LEAST, OBJECTS, SERVICES, Pod, of_kind, pods, selects
from tools.chart.copies import written
from tools.chart.rendering import CHART, PROFILES, ROOT, Manifest, laid, problems, profile, render
from tools.chart.validating import complaints, versions

CASES: dict[str, dict[str, Any]] = {
    **{name: profile(name) for name in PROFILES},
    "least": LEAST,
    "everything": EVERYTHING,
    "objects": OBJECTS,
    "hpa to metrics of one's own": laid(
        {"scoring": {"autoscaling": {"kind": "hpa", "hpaMetrics": [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}}}, LEAST),
    "long names": laid({"fullnameOverride": "a-name-of-forty-letters-as-long-as-it-get"}, profile("cluster")),
}  # fmt: skip


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    return {name: render(values) for name, values in CASES.items()}


@pytest.fixture(params=CASES)
def manifests(request: pytest.FixtureRequest, rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return rendered[request.param]


@pytest.mark.parametrize("version", versions())
def test_kubernetes_takes_every_manifest(manifests: list[Manifest], version: str) -> None:
    assert [text for manifest in manifests for text in complaints(manifest, version)] == []


def test_the_validators_see_what_is_wrong(rendered: dict[str, list[Manifest]]) -> None:
    """A validator that takes everything would be no use."""
    for kind in ("Deployment", "Job", "JobSet", "ScaledObject", "PodMonitor", "Certificate", "NetworkPolicy"):
        (manifest, *_) = of_kind(rendered["cluster"], kind)
        spoilt = json.loads(json.dumps(manifest))
        spoilt["spec"]["replicaCount"] = 3
        assert any("replicaCount" in text for text in complaints(spoilt, versions()[-1])), kind
    (jobs,) = of_kind(rendered["cluster"], "JobSet")
    spoilt = json.loads(json.dumps(jobs))
    spoilt["spec"]["replicatedJobs"][1]["template"]["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    assert any("comand" in text for text in complaints(spoilt, versions()[-1]))


@pytest.mark.parametrize("case", CASES)
def test_helm_has_nothing_to_say(case: str) -> None:
    assert problems(CASES[case]) == []


@pytest.mark.parametrize("path", written(golden_too=False), ids=lambda path: path.name)
def test_what_is_made_of_other_files_is_up_to_date(path: Any) -> None:
    assert path.read_text(encoding="utf-8") == written(golden_too=False)[path], "run `make chart`"


def test_profiles_come_to_what_is_written_down() -> None:
    for path, text in written(golden_too=True).items():
        if path.parent.name == "golden":
            assert path.read_text(encoding="utf-8") == text, f"{path.name}: look at what `make chart` changes"


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_names_are_short_enough_and_unique(manifests: list[Manifest]) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names)
    for kind, name in names:
        assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", name), name
        # What follows a JobSet's name in its pods' host names is -follower-0-0 and more.
        assert len(name) <= (50 if kind in ("JobSet", "StatefulSet") else 63), (kind, name)


def test_selectors_select_what_is_there(manifests: list[Manifest]) -> None:
    made = list(pods(manifests))
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        (own,) = [pod for pod in made if pod.owner == f"{manifest['kind']}/{manifest['metadata']['name']}"]
        found = [pod for pod in made if selects(manifest["spec"]["selector"], pod.labels)]
        assert found == [own]
    for manifest in of_kind(manifests, "PodDisruptionBudget"):
        assert len([pod for pod in made if selects(manifest["spec"]["selector"], pod.labels)]) == 1
    for manifest in of_kind(manifests, "PodMonitor"):
        found = [pod for pod in made if selects(manifest["spec"]["selector"], pod.labels)]
        assert {pod.component for pod in found} == set(SERVICES)
        for endpoint in manifest["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in port_names(pod) for pod in found)
    for manifest in of_kind(manifests, "Service"):
        found = [pod for pod in made if selects({"matchLabels": manifest["spec"]["selector"]}, pod.labels)]
        assert len(found) == 1
        assert manifest["spec"]["clusterIP"] == "None"
        assert manifest["spec"]["publishNotReadyAddresses"] is False
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= port_names(found[0])
    for manifest in of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler"):
        target = manifest["spec"]["scaleTargetRef"]
        (scaled,) = [m for m in of_kind(manifests, target["kind"]) if m["metadata"]["name"] == target["name"]]
        assert "replicas" not in scaled["spec"], "an upgrade would undo what the autoscaler did"
    for manifest in of_kind(manifests, "StatefulSet"):
        assert manifest["spec"]["serviceName"] in {m["metadata"]["name"] for m in of_kind(manifests, "Service")}


def port_names(pod: Pod) -> set[str]:
    return {port["name"] for port in pod.container["ports"]}


def test_network_policies_cover_all_pods_and_let_in_who_has_to(manifests: list[Manifest]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    made = list(pods(manifests))
    for pod in made:
        if pod.component == "test":
            continue
        found = [policy for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
        assert found, pod.owner
        assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in found)
    for pod in made:
        ports = {"coordinator": "grpc", "test": "health"}.get(pod.component)
        if ports is None:
            continue
        for server in (p for p in made if "ports" in p.container):
            rules = [
                rule
                for policy in policies
                if selects(policy["spec"]["podSelector"], server.labels)
                for rule in policy["spec"]["ingress"]
                if any(selects(peer["podSelector"], pod.labels) for peer in rule["from"] if "podSelector" in peer)
            ]
            assert ports in {port["port"] for rule in rules for port in rule.get("ports", [])}, (
                pod.owner,
                server.owner,
            )
    for policy in policies:
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], "an empty rule lets in everybody"


def test_secrets_go_to_whom_they_are_for(rendered: dict[str, list[Manifest]]) -> None:
    for pod in pods(rendered["everything"]):
        stores = [source["secretRef"]["name"] for source in pod.container.get("envFrom", [])]
        assert ("s3" in stores) == (pod.component in SERVICES), pod.owner
        secrets = {v["secret"]["secretName"]: v["secret"] for v in pod.spec.get("volumes", []) if "secret" in v}
        assert ("tokens" in secrets) == (pod.component in SERVICES), pod.owner
        if pod.component == "coordinator":
            assert secrets["tls"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "not the servers' key"
            assert {"token", "client"} <= set(secrets)


def test_a_coordinator_gets_to_the_store_where_its_data_are_there(rendered: dict[str, list[Manifest]]) -> None:
    def reaches(case: str) -> tuple[bool, bool, bool]:
        (pod,) = [pod for pod in pods(rendered[case]) if pod.component == "coordinator"]
        (policy,) = [
            p for p in of_kind(rendered[case], "NetworkPolicy") if p["metadata"]["name"].endswith("-coordinator")
        ]  # fmt: skip
        return (
            "envFrom" in pod.container,
            "AWS_ENDPOINT_URL" in {entry["name"] for entry in pod.container["env"]},
            any("ipBlock" in peer for rule in policy["spec"]["egress"] for peer in rule.get("to", [])),
        )

    assert reaches("objects") == (True, True, True)
    assert reaches("cluster") == reaches("everything") == (False, False, False)


def test_object_storage_is_reached_only_where_it_is_used(rendered: dict[str, list[Manifest]]) -> None:
    def leaves(manifests: list[Manifest]) -> bool:
        policies = of_kind(manifests, "NetworkPolicy")
        return any("ipBlock" in peer for p in policies for r in p["spec"]["egress"] for peer in r.get("to", []))

    assert {name: leaves(rendered[name]) for name in ("cpu-demo", "single-gpu", "cluster", "least", "everything")} == {
        "cpu-demo": False, "single-gpu": False, "cluster": True, "least": True, "everything": True
    }  # fmt: skip


def test_credentials_of_a_role_are_reached_where_they_are_said_to_be() -> None:
    place = "169.254.170.23/32"
    manifests = render(laid({"networkPolicy": {"objectStore": {"credentialCidrs": [place]}}}, OBJECTS))
    reached = {
        policy["metadata"]["name"].rpartition("-")[2]: [
            rule["ports"] for rule in policy["spec"]["egress"] if {"ipBlock": {"cidr": place}} in rule.get("to", [])
        ]
        for policy in of_kind(manifests, "NetworkPolicy")
    }
    assert reached == {"servers": [[{"port": 80}]], "coordinator": [[{"port": 80}]]}


def test_pods_are_confined(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert not any("hostPath" in volume for volume in pod.spec.get("volumes", []))
        assert "memory" in pod.container["resources"]["limits"]


def test_what_pods_name_is_there(manifests: list[Manifest]) -> None:
    claims = {m["metadata"]["name"] for m in of_kind(manifests, "PersistentVolumeClaim")}
    given = {"models", "burnish-runs", "data"}  # by profiles, existing ones
    configurations = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")}
    accounts = {m["metadata"]["name"] for m in of_kind(manifests, "ServiceAccount")}
    for pod in pods(manifests):
        assert pod.spec["serviceAccountName"] in accounts
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = [mount["name"] for mount in pod.container.get("volumeMounts", [])]
        assert set(mounts) == set(volumes), pod.owner
        paths = [mount["mountPath"] for mount in pod.container.get("volumeMounts", [])]
        assert len(set(paths)) == len(paths)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims | given
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configurations


def test_probes_ask_ports_that_are_there_and_leave_time(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        if "ports" not in pod.container:
            continue
        container = pod.container
        numbers = {port["containerPort"]: port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert numbers[container[kind]["grpc"]["port"]] == "health"
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
        grace = next(float(a.partition("=")[2]) for a in container["args"] if a.startswith("--grace="))
        drain = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        checkpoint = 20 if pod.component == "training" else 0
        assert pod.spec["terminationGracePeriodSeconds"] > drain + grace + checkpoint


def test_one_writer_is_all_that_vectors_and_the_queue_of_training_get(manifests: list[Manifest]) -> None:
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        if manifest["metadata"]["labels"]["app.kubernetes.io/component"] in ("embedding", "training"):
            assert manifest["spec"]["replicas"] == 1
            assert manifest["kind"] == "StatefulSet" or manifest["spec"]["strategy"] == {"type": "Recreate"}


def test_coordinator_and_servers_see_trained_models_at_one_path(manifests: list[Manifest]) -> None:
    made = {pod.component: pod for pod in pods(manifests)}
    if "coordinator" not in made:
        return

    def places(component: str) -> dict[str, str]:
        """What is mounted of the volume of runs: place in it by path, both with all that is below."""
        pod = made[component]
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in pod.spec["volumes"] if "persistentVolumeClaim" in v
        }  # fmt: skip
        return {
            mount["mountPath"]: mount.get("subPath", "")
            for mount in pod.container["volumeMounts"]
            if claims.get(mount["name"], "").endswith("runs") and not mount["mountPath"].endswith("/data")
        }

    if not places("coordinator"):
        return
    ((path, inside),) = places("coordinator").items()
    out = next(a.partition("=")[2] for a in made["coordinator"].container["args"] if a.startswith("--out="))
    assert path == f"{out}/models"
    for service in SERVICES:
        ((root, _),) = places(service).items()
        assert f"{root}/{inside}" == path
        assert any(root in a for a in made[service].container["args"] if "-roots=" in a)


def test_a_changed_run_is_another_job_and_the_same_one_is_the_same() -> None:
    def name(**changes: Any) -> str:
        values = laid({"coordinator": changes}, profile("cpu-demo"))
        ((job),) = of_kind(render(values), "Job")
        return str(job["metadata"]["name"])

    assert name() == name() != name(options={"rounds": 3})
    assert name() != name(settings={"max_in_flight": 2})


def test_exit_codes_of_the_command_decide_what_the_job_does(rendered: dict[str, list[Manifest]]) -> None:
    (job,) = of_kind(rendered["everything"], "Job")
    rules = job["spec"]["podFailurePolicy"]["rules"]

    def outcome(code: int, *, disrupted: bool = False) -> str:
        for rule in rules:
            if "onPodConditions" in rule:
                if disrupted:
                    return str(rule["action"])
            elif code in rule["onExitCodes"]["values"]:
                assert rule["onExitCodes"]["containerName"] == "coordinator"
                return str(rule["action"])
        return "Count"

    assert {code: outcome(code) for code in (1, 2, 3, 130)} == {1: "Count", 2: "FailJob", 3: "Count", 130: "Ignore"}
    assert outcome(2, disrupted=True) == outcome(137, disrupted=True) == "Ignore"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["podReplacementPolicy"] == "Failed"


def test_autoscalers_ask_for_metrics_that_there_are(rendered: dict[str, list[Manifest]]) -> None:
    told = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    queries = [
        trigger["metadata"]["query"]
        for manifest in of_kind(rendered["cluster"], "ScaledObject")
        for trigger in manifest["spec"]["triggers"] if trigger["type"] == "prometheus"
    ]  # fmt: skip
    assert len(queries) == 4
    for query in queries:
        promql_parser.parse(query)
        metrics = re.findall(r"burnish_\w+", query)
        assert len(metrics) == 2
        assert all(f"`{metric}`" in told for metric in metrics)
    own = {m["metadata"]["name"] for m in of_kind(rendered["cluster"], "Deployment")}
    assert all(any(f'pod=~"{name}-.+"' in query for name in own) for query in queries)
    (clients,) = {
        trigger["metadata"]["podSelector"]
        for manifest in of_kind(rendered["cluster"], "ScaledObject")
        for trigger in manifest["spec"]["triggers"] if trigger["type"] == "kubernetes-workload"
    }  # fmt: skip
    (coordinator,) = [pod for pod in pods(rendered["cluster"]) if pod.component == "coordinator"]
    assert dict(pair.split("=") for pair in clients.split(",")).items() <= coordinator.labels.items()


def test_an_autoscaler_without_keda_asks_for_shares_of_the_servers_own_limits(
    rendered: dict[str, list[Manifest]],
) -> None:
    (scaler,) = of_kind(rendered["everything"], "HorizontalPodAutoscaler")
    metrics = {one["pods"]["metric"]["name"]: one["pods"]["target"] for one in scaler["spec"]["metrics"]}
    limits = RewritingSettings()
    expected = {
        "burnish_concurrent_requests": math.floor(0.7 * limits.max_concurrent_requests),
        "burnish_tokens_in_flight": math.floor(0.7 * limits.max_tokens_in_flight),
    }
    assert metrics == {name: {"type": "AverageValue", "averageValue": str(most)} for name, most in expected.items()}


def test_the_manual_names_every_value() -> None:
    """values.yaml has all that the schema takes, but for options and settings, which are the programs' own."""
    own = {"options", "settings"}
    missing = []

    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        for name, inner in schema.get("properties", {}).items():
            if name == "global":  # Helm's own
                continue
            if name not in values:
                missing.append(f"{path}.{name}")
            elif name not in own and isinstance(values[name], dict) and values[name] and path + name not in SERVICES:
                compare(inner, values[name], f"{path}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")), "")
    allowed = {".server.resources.claims", ".coordinator.resources.claims"}
    assert set(missing) - allowed == set()
