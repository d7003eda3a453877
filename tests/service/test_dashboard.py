"""The dashboard and the alerts ask for what the services really export: every name, label and value of every query."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.runtime.config import ALL_ROLES
from tests.service.seeing import WORKED, page, page_with, seen_services, work
from tests.service.support import failure_of, sample
from tests.service.test_access import Authority

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/burnish.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
GUIDE = (ROOT / "docs/observability.md").read_text()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
# What Prometheus itself puts on everything that it scrapes.
OF_PROMETHEUS = {"job", "instance"}
# Words that queries name and that no page has while all is well.
RARE = {"code": {"CANCELLED"}, "reason": {"TOO_MANY_REQUESTS"}}
VARIABLES = {"$__rate_interval": "5m", "$__range": "3h", "$job": ".*", "$service": ".+"}


@dataclass(frozen=True)
class Exported:
    """What a scrape had: labels and their values by sample name, and the kind of each name."""

    values: dict[str, dict[str, set[str]]]
    counters: set[str]


async def worked(folder: Path) -> str:
    """A page after work of every kind, and a refusal; and what a server with a certificate says of it."""
    async with seen_services(folder) as server:
        await work(server, folder)
        await page_with(server, *WORKED)
        server.lifecycle.drain()
        async with grpc.aio.insecure_channel(server.address) as channel:
            request = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])
            await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request))
        plain = await page_with(server, 'reason="DRAINING"')
    authority = Authority(folder / "pki")
    certificate, key = authority.issue()
    trusting = ssl.create_default_context(cafile=str(authority.root))
    async with seen_services(folder, roles=("scoring",), tls_cert=certificate, tls_key=key) as server:
        encrypted = await page(server, trusting)
    lines = [line for line in encrypted.splitlines(keepends=True) if "burnish_certificate" in line]
    assert lines
    return plain + "".join(lines)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return asyncio.run(worked(tmp_path_factory.mktemp("seen")))


@pytest.fixture(scope="module")
def exported(text: str) -> Exported:
    values: dict[str, dict[str, set[str]]] = {}
    counters = set()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = values.setdefault(one.name, {})
            for label, word in one.labels.items():
                labels.setdefault(label, set()).add(word)
            if family.type == "counter" or (family.type == "histogram" and one.name != family.name):
                counters.add(one.name)
    return Exported(values | {"up": {}}, counters)  # Prometheus's own, of everything that it scrapes


def expression(text: str) -> Any:
    for name, stands_for in VARIABLES.items():
        text = text.replace(name, stands_for)
    assert "$" not in text, f"a variable that the dashboard does not have: {text}"
    return promql.parse(text)


def selectors(node: Any) -> Iterator[tuple[Any, bool]]:
    """The selectors below a node, and whether each is looked at over time."""
    match node:
        case promql.VectorSelector():
            yield node, False
        case promql.MatrixSelector():
            yield node.vector_selector, True
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr():
            yield from selectors(node.expr)
        case promql.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        # Of a gauge, as it was.
        case promql.Call() if node.func.name.endswith("_over_time") or node.func.name == "changes":
            yield from ((selector, False) for argument in node.args for selector, _ in selectors(argument))
        case promql.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"no query here has had a {type(node).__name__} so far")


def labels_of(node: Any, exported: Exported) -> set[str]:
    """The labels that a query's results have. Fails where it groups by one that is not there."""
    match node:
        case promql.VectorSelector():
            return {*exported.values[node.name], *OF_PROMETHEUS}
        case promql.MatrixSelector():
            return labels_of(node.vector_selector, exported)
        case promql.AggregateExpr():
            inside = labels_of(node.expr, exported)
            kept = set(node.modifier.labels) if node.modifier is not None else set()
            assert kept <= inside, f"grouped by {kept - inside}, which is not among {inside}: {node.prettify()}"
            return kept
        case promql.BinaryExpr() if node.modifier is not None and node.modifier.matching is not None:
            left, right = labels_of(node.lhs, exported), labels_of(node.rhs, exported)
            matched = set(node.modifier.matching.labels)
            assert matched <= left & right, f"matched by {matched}, of {left} and {right}: {node.prettify()}"
            return left
        case promql.BinaryExpr():
            sides = [labels_of(one, exported) for one in (node.lhs, node.rhs) if list(selectors(one))]
            assert all(side == sides[0] for side in sides), f"the sides never match: {sides} in {node.prettify()}"
            return sides[0]
        case promql.Call():
            if node.func.name == "absent":
                return set()
            inner = [labels_of(one, exported) for one in node.args if list(selectors(one))]
            if node.func.name == "histogram_quantile":
                assert "le" in inner[0], f"no buckets in {node.prettify()}"
                return inner[0] - {"le"}
            return inner[0]
        case _:
            return labels_of(node.expr, exported)


def check(text: str, exported: Exported) -> set[str]:
    """The labels of a query's results, after looking at all that it asks for."""
    tree = expression(text)
    for selector, over_time in selectors(tree):
        assert selector.name in exported.values, f"{selector.name} is not exported"
        there = exported.values[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name in OF_PROMETHEUS:
                continue
            assert matcher.name in there, f"{selector.name} has no label {matcher.name}; it has {sorted(there)}"
            known = there[matcher.name] | RARE.get(matcher.name, set())
            for word in matcher.value.split("|"):
                assert any(re.fullmatch(word, one) for one in known), f"{matcher.name} is never {word}: {sorted(known)}"
        is_counter = selector.name in exported.counters
        assert over_time == is_counter, f"{selector.name}: counters want rate() or increase(), and nothing else does"
    return labels_of(tree, exported)


@pytest.mark.parametrize("title", [panel["title"] for panel in PANELS])
def test_a_panel_asks_for_what_is_there(title: str, exported: Exported) -> None:
    (panel,) = [one for one in PANELS if one["title"] == title]
    assert panel["description"]
    for target in panel["targets"]:
        found = check(target["expr"], exported)
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= found, f"the legend shows {shown - found}, the result has {found}"
        assert len(shown) == len(found - {"job"}) or shown >= found - OF_PROMETHEUS, "lines that look alike"
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_what_is_there(rule: dict[str, Any], exported: Exported) -> None:
    found = check(rule["expr"], exported)
    assert rule["labels"]["severity"] in ("critical", "warning")
    for text in (rule["annotations"]["summary"], rule["annotations"]["description"]):
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= found


def test_variables_are_filled_from_what_is_there(exported: Exported) -> None:
    by_name = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert set(by_name) == {"datasource", "job", "service"}
    assert by_name["datasource"]["type"] == "datasource"
    for name in ("job", "service"):
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", by_name[name]["query"]["query"])
        assert query is not None
        assert query[2] == name
        assert name in check(query[1], exported)
    assert exported.values["burnish_serving"]["service"] == set(ALL_ROLES)


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_guide_names_every_metric_and_no_other(text: str) -> None:
    """By the names of families, as on the page: the guide shows counters with their `_total`."""
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    ours = {
        name + ("_total" if kind == "counter" else "") for name, kind in kinds.items() if name.startswith("burnish_")
    }
    named = set(re.findall(r"`(burnish_\w+?)(?:\{[^`]*\})?`", GUIDE))
    assert named == ours


def test_every_metric_is_on_the_dashboard(exported: Exported) -> None:
    shown = {selector.name for _, target in TARGETS for selector, _ in selectors(expression(target["expr"]))}
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in exported.values if name.startswith("burnish_")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in shown if name.startswith("burnish_")} == ours


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(burnish_requests[5m]))", "not exported"),
        ('sum(rate(burnish_requests_total{servise="x"}[5m]))', "no label servise"),
        ('sum(rate(burnish_requests_total{code="FINE"}[5m]))', "never FINE"),
        ("sum by (outcome) (rate(burnish_requests_total[5m]))", "grouped by"),
        ("burnish_requests_total", "counters want rate"),
        ("rate(burnish_serving[5m])", "nothing else does"),
        ("changes(burnish_requests_total[1h])", "counters want rate"),
        ("burnish_concurrent_requests / burnish_model_waiting_requests", "never match"),
        ("up == 0 and on (service) burnish_serving", "matched by"),
        ("histogram_quantile(0.5, sum by (service) (rate(burnish_request_duration_seconds_bucket[5m])))", "no buckets"),
    ],
)
def test_a_wrong_query_is_found(query: str, complaint: str, exported: Exported) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(query, exported)
