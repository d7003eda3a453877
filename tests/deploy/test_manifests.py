"""What the chart renders: valid where it is installed, as it was when somebody last looked, and of one piece."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from burnish_services.rewriting.config import RewritingSettings
from tests.deploy.support import EVERYTHING, LEAST, OBJECTS, SERVICES, Pod, of_kind, pods, selects
from tools.chart.copies import written
from tools.chart.rendering import CHART, PROFILES, ROOT, Manifest, laid, problems, profile, render
from tools.chart.validating import complaints, versions

ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0][
    "rules"
]
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
        checkpoint = stop_seconds(pod) + 20 if pod.component == "training" else 0
        assert pod.spec["terminationGracePeriodSeconds"] > drain + grace + checkpoint


def stop_seconds(pod: Pod) -> float:
    """What a worker of this pod has for its last checkpoint."""
    (seconds,) = [e["value"] for e in pod.container["env"] if e["name"] == "BURNISH_TRAINING_STOP_SECONDS"]
    return float(seconds)


@pytest.mark.parametrize(
    ("training", "stop", "close"),
    [
        ({}, 275, 300),
        ({"closeSeconds": 1000}, 975, 1000),
        ({"closeSeconds": 10}, 0, 25),
        ({"settings": {"stop_seconds": 600.5}}, 600.5, 626),
        ({"settings": {"stop_seconds": 0}}, 0, 300),
    ],
)
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_worker_has_what_closing_takes_for_its_checkpoint(
    training: dict[str, Any], stop: float, close: int, nodes: int
) -> None:
    values = laid({"training": {**training, "nodes": nodes, "state": {"accessModes": ["ReadWriteMany"]}}}, LEAST)
    made = {pod.component: pod for pod in pods(render(values))}
    server = made["training"]
    assert stop_seconds(server) == stop
    assert server.spec["terminationGracePeriodSeconds"] == 5 + 30 + close
    assert made["scoring"].spec["terminationGracePeriodSeconds"] == 5 + 30 + 45
    if nodes > 1:
        assert stop_seconds(made["follower"]) == stop
        assert made["follower"].spec["terminationGracePeriodSeconds"] == close


def test_replicas_that_come_and_go_are_found(rendered: dict[str, list[Manifest]]) -> None:
    def ages(manifests: list[Manifest]) -> dict[str, list[str]]:
        return {
            pod.component: [a.partition("=")[2] for a in pod.container["args"] if "max-connection-age" in a]
            for pod in pods(manifests) if pod.component in SERVICES
        }  # fmt: skip

    none: dict[str, list[str]] = {service: [] for service in SERVICES}
    assert ages(rendered["least"]) == none
    assert ages(rendered["cluster"]) == none | {"scoring": ["600"], "rewriting": ["600"]}
    assert ages(rendered["everything"]) == none | {"rewriting": ["600"]}
    given = laid({"rewriting": {"options": {"max-connection-age": 60}}}, EVERYTHING)
    assert ages(render(given))["rewriting"] == ["60"]


def test_pods_ask_their_node_for_the_disk_that_they_may_take(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        if pod.component not in (*SERVICES, "follower"):
            continue
        empty = [v["emptyDir"] for v in pod.spec["volumes"] if "emptyDir" in v]
        on_disk = [one["sizeLimit"] for one in empty if one.get("medium") != "Memory"]  # each has one
        assert all(size.endswith("Gi") for size in on_disk)
        wanted = sum(int(size.removesuffix("Gi")) for size in on_disk) * 2**30
        assert pod.container["resources"]["requests"]["ephemeral-storage"] == str(wanted)


@pytest.mark.parametrize("where", ["requests", "limits"])
def test_disk_that_is_asked_for_by_hand_stays(where: str) -> None:
    values = laid({"server": {"resources": {where: {"ephemeral-storage": "1Gi"}}}}, LEAST)
    (scoring,) = [pod for pod in pods(render(values)) if pod.component == "scoring"]
    found = scoring.container["resources"]
    assert [found[kind].get("ephemeral-storage") for kind in ("requests", "limits")] == [
        "1Gi" if kind == where else None for kind in ("requests", "limits")
    ]


def test_one_writer_is_all_that_vectors_and_the_queue_of_training_get(manifests: list[Manifest]) -> None:
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        if manifest["metadata"]["labels"]["app.kubernetes.io/component"] in ("embedding", "training"):
            # A Deployment, whatever its strategy, begins the next pod while one on a lost node may still write.
            assert (manifest["kind"], manifest["spec"]["replicas"]) == ("StatefulSet", 1)


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


def selectors(node: Any) -> Iterator[Any]:
    """Of every metric that an expression asks for."""
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield node.vector_selector
        case promql_parser.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr():
            yield from selectors(node.expr)


def rules(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    """The alerts of a release, by name."""
    (made,) = of_kind(manifests, "PrometheusRule")
    (group,) = made["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


WATCHED = {"monitoring": {"prometheusRule": {"enabled": True}}}


@pytest.mark.parametrize("case", ["cluster", "everything", "long names"])
def test_alerts_are_of_the_releases_own_pods(case: str, rendered: dict[str, list[Manifest]]) -> None:
    own = [m["metadata"]["name"] for m in rendered[case] if m["kind"] in ("Deployment", "StatefulSet", "JobSet")]
    sources = {rule["alert"]: rule["expr"] for rule in ALERTS}
    assert list(rules(rendered[case])) == list(sources)
    for name, rule in rules(rendered[case]).items():
        found = list(selectors(promql_parser.parse(rule["expr"])))
        metrics = {one.name for one in selectors(promql_parser.parse(sources[name]))}
        assert {one.name for one in found} == metrics
        for one in found:
            matchers = {m.name: m.value for m in one.matchers.matchers}
            assert matchers["namespace"] == "polishing"
            for owner in own:
                assert re.fullmatch(matchers["pod"], f"{owner}-7d9f-x2x")
                assert not re.fullmatch(matchers["pod"], f"{owner.rpartition('-')[0]}-2-scoring-7d9f-x2x")
        # Their own words are kept, but where the chart knows better.
        if name not in ("BurnishServiceGone", "BurnishCertificateEnds"):
            rest = re.sub(r'namespace="[^"]+",pod=~"[^"]+"', "", rule["expr"]).replace("{,", "{").replace("{}", "")
            assert rest == sources[name].strip()


def test_servers_may_load_for_as_long_as_their_probes_let_them() -> None:
    def waits(**values: Any) -> str:
        return str(rules(render(laid(values, laid(WATCHED, LEAST))))["BurnishNotServing"]["for"])

    assert waits() == "1800s"
    assert waits(rewriting={"startSeconds": 7200}) == "7200s"
    assert waits(rewriting={"startSeconds": 7200, "enabled": False}) == "1800s"
    assert waits(monitoring={"prometheusRule": {"enabled": True, "notServingSeconds": 60}}) == "60s"


@pytest.mark.parametrize(
    ("manager", "asked", "seconds"),
    [
        ({}, 0, 15 * 86400),
        ({"duration": "24h", "renewBefore": "8h"}, 0, 4 * 3600),
        ({"duration": "2h", "renewBefore": "1h30m10s"}, 0, 2705),
        ({}, 3600, 3600),
        ({"enabled": False}, 0, 14 * 86400),
        ({"enabled": False}, 3600, 3600),
    ],
)
def test_certificates_are_missed_once_they_should_have_been_renewed(
    manager: dict[str, Any], asked: int, seconds: int
) -> None:
    values = laid({"monitoring": {"prometheusRule": {"enabled": True, "certificateEndsSeconds": asked}}}, LEAST)
    made = {"enabled": True, "issuerRef": {"name": "burnish"}} | manager
    secret = "" if made["enabled"] else "certificates"
    values = laid({"insecure": False, "tokens": {"secretName": "tokens"}}, values)
    values = laid({"tls": {"secretName": secret, "certManager": made}}, values)
    factors = rules(render(values))["BurnishCertificateEnds"]["expr"].partition("<")[2].split("*")
    assert math.prod(int(factor) for factor in factors) == seconds


def test_an_empty_folder_for_state_is_as_large_as_what_is_kept_there() -> None:
    def sizes(**values: Any) -> dict[str, str]:
        found = {}
        manifests = render(
            laid(values, laid({"model": "/models/small", "storage": {"models": {"enabled": True}}}, LEAST))
        )
        for manifest in manifests:
            if manifest["kind"] == "PersistentVolumeClaim":
                component = manifest["metadata"]["labels"].get("app.kubernetes.io/component")
                found[component] = manifest["spec"]["resources"]["requests"]["storage"]
        for pod in pods(manifests):
            for volume in pod.spec.get("volumes", ()):
                if volume["name"] == "state" and "emptyDir" in volume:
                    found[pod.component] = volume["emptyDir"]["sizeLimit"]
        return {name: found[name] for name in SERVICES}

    claims = {"embedding": "100Gi", "training": "100Gi"}  # which cannot get smaller
    assert sizes() == {"scoring": "20Gi", "rewriting": "20Gi", **claims}
    assert sizes(model="s3://burnish/base") == {"scoring": "100Gi", "rewriting": "100Gi", **claims}
    assert sizes(scoring={"model": "s3://burnish/base"})["scoring"] == "100Gi"
    roots = {"objects": {"roots": ["s3://burnish/models"]}}
    assert sizes(storage=roots) == {"scoring": "100Gi", "rewriting": "100Gi", **claims}
    assert sizes(storage=roots, server={"state": {"size": "7Gi"}}) == dict.fromkeys(SERVICES, "7Gi")


def test_services_that_are_always_there_are_missed_by_name(rendered: dict[str, list[Manifest]]) -> None:
    def missed(manifests: list[Manifest]) -> list[str]:
        expression = rules(manifests).get("BurnishServiceGone", {"expr": ""})["expr"]
        return re.findall(r'absent\(burnish_serving\{[^}]*,service="(\w+)"\}\)', expression)

    assert missed(rendered["cluster"]) == ["embedding", "training"], "the others go to nothing by themselves"
    assert missed(rendered["everything"]) == list(SERVICES)
    scaled = laid({name: {"enabled": False} for name in ("embedding", "training")}, profile("cluster"))
    manifests = render(laid({"coordinator": {"enabled": False}}, scaled))
    assert missed(manifests) == []
    assert {"BurnishGone", "BurnishServiceGone"}.isdisjoint(rules(manifests)), "nothing is there while nobody works"


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
