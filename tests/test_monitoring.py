"""The dashboard and the rules: against the metrics there are, against promtool, against the runbook."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import manifests
import monitoring_files
import promtool
from test_operations import OPERATIONS, loaded_page

FOLDER = monitoring_files.FOLDER
TARGET = {"namespace", "job", "pod", "instance"}  # labels that scraping adds
NAME = re.compile(r"\b((?:seqserve|grpc|process|python|namespace_job)[a-z0-9_:]*)(\{[^}]*\})?")
GROUPING = re.compile(r"\b(?:by|on|without|group_left) \(([a-z_, ]*)\)")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
# One edit for each alert, by which it would no longer say what its test expects.
PLANTED = {
    "SeqserveErrorsFastBurn": ("rate1h > (14.4 * 0.001)", "rate1h > (144 * 0.001)"),
    "SeqserveErrorsSlowBurn": ("errors:ratio_rate6h > (6 * 0.001)", "errors:ratio_rate6h > (60 * 0.001)"),
    "SeqserveErrorsBudget": ("errors:ratio_rate3d > (1 * 0.001)", "errors:ratio_rate3d > (10 * 0.001)"),
    "SeqserveLatencyFastBurn": ("slow:ratio_rate1h > (14.4 * 0.01)", "slow:ratio_rate1h > (30 * 0.01)"),
    "SeqserveLatencySlowBurn": ("slow:ratio_rate6h > (6 * 0.01)", "slow:ratio_rate6h > (60 * 0.01)"),
    "SeqserveLatencyBudget": ("slow:ratio_rate3d > (1 * 0.01)", "slow:ratio_rate3d > (10 * 0.01)"),
    "SeqserveNoReadyReplicas": ("or\n          absent(seqserve_ready)", ""),
    "SeqserveReplicaNotReady": ("for: 15m", "for: 1m"),
    "SeqserveEngineStalled": (
        "rate(seqserve_score_seconds_count[2m])", "0 * rate(seqserve_score_seconds_count[2m])"
    ),
    "SeqserveEngineFailures": ('finish_reason="failed"', 'finish_reason="cancelled"'),
    "SeqserveRestarting": ("[30m]) > 2", "[30m]) > 1"),
    "SeqserveCertificateExpires": ("< 7 * 86400", "< 9 * 86400"),
    "SeqserveQueueSaturated": ("+ seqserve_max_rows", ""),
    "SeqserveRejectingRequests": ("INVALID_FIELD|INPUT_TOO_LONG", "INPUT_TOO_LONG"),
    "SeqserveCacheMemoryFull": ("and\n          seqserve_requests_waiting > 0", ""),
    "SeqserveFewFileDescriptors": (
        "process_max_fds > 0.8\n          and on (namespace, job, instance)\n          seqserve_build_info",
        "process_max_fds > 0.8",
    ),
}
# Whose matter a refusal is. A new reason belongs into one of the two, and into rules.yaml if it is the caller's.
OURS = {"QUEUE_FULL", "DEADLINE_IN_QUEUE", "DEADLINE_UNREACHABLE"}
THE_CALLERS = {
    "INVALID_FIELD", "INPUT_TOO_LONG", "MODEL_NOT_FOUND", "NO_SCORER", "MODEL_LOADING", "UNAUTHENTICATED",
    "TENANT_DENIED", "QUARANTINED",
}


def rules() -> list[dict[str, Any]]:
    text = (FOLDER / "rules.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def expressions() -> list[str]:
    return [*monitoring_files.queries(), *(rule["expr"] for rule in rules())]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[dict[str, str]]]:
    """Label sets by the name of a sample, of a server under load."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(asyncio.run(loaded_page())):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.fixture
def tool() -> Path:
    found = promtool.find("promtool")
    if found is None:
        pytest.skip(promtool.MISSING)
    return found


def test_the_written_files_are_those_that_would_be_written() -> None:
    for name, text in monitoring_files.written().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, "run make monitoring"


@pytest.mark.parametrize("expression", expressions())
def test_every_query_asks_for_metrics_and_labels_that_there_are(
    expression: str, samples: dict[str, list[dict[str, str]]]
) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    known = TARGET.union(*(labels for each in samples.values() for labels in each))
    assert {label for labels in GROUPING.findall(expression) for label in labels.split(", ") if label} <= known
    named = list(NAME.finditer(GROUPING.sub("", expression)))
    assert named
    for match in named:
        name, selector = match[1], match[2] or ""
        if name in recorded:
            continue
        assert name in samples
        matchers = MATCHER.findall(selector)
        assert {label for label, *_ in matchers} <= TARGET | set(samples[name][0]) | {"le"}
        for label, operator, value in matchers:
            if operator == "=":  # a bound of a histogram, or another value that a series must have to match
                assert any(labels[label] == value for labels in samples[name]), f"{name}: no {label}={value}"


def test_the_dashboard_stands_on_its_own() -> None:
    board = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    assert board["uid"] == "seqserve"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace", "pod", "model"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < monitoring_files.WIDTH
        taken |= cells


def test_rules_are_valid_and_their_tests_pass(tool: Path) -> None:
    assert promtool.problems(tool) == []


def test_the_tests_of_the_rules_see_a_fault_in_each_alert(tool: Path, tmp_path: Path) -> None:
    assert set(PLANTED) == set(alerts())
    shutil.copytree(FOLDER, tmp_path / "monitoring")
    path = tmp_path / "monitoring" / "rules.yaml"
    text = path.read_text(encoding="utf-8")
    for name, (before, after) in PLANTED.items():
        head, mark, body = text.partition(f"- alert: {name}\n")
        assert before in body.partition("- alert:")[0], name
        text = head + mark + body.replace(before, after, 1)
    path.write_text(text, encoding="utf-8")
    (said,) = promtool.problems(tool, path)
    assert [name for name in PLANTED if f"alertname: {name}" not in said] == []


def test_every_alert_has_a_severity_and_a_paragraph_in_the_runbook() -> None:
    headings = {
        line.removeprefix("### ").lower() for line in OPERATIONS.read_text(encoding="utf-8").splitlines()
        if line.startswith("### ")
    }
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("docs/operations.md", name.lower())
        assert anchor in headings


def test_every_reason_of_a_refusal_is_either_the_callers_matter_or_ours(
    samples: dict[str, list[dict[str, str]]]
) -> None:
    reasons = {labels["reason"] for labels in samples["seqserve_requests_rejected_total"]}
    assert reasons == OURS | THE_CALLERS
    said = [re.search(r'reason!~"([A-Z_|]+)"', rule["expr"]) for rule in rules()]
    assert [set(match[1].split("|")) for match in said if match] == [THE_CALLERS] * 2


@pytest.mark.skipif(not manifests.can_render(), reason="rendering needs kubectl, which is not installed")
def test_the_kustomization_puts_the_dashboard_where_grafana_looks() -> None:
    documents = {document["kind"]: document for document in manifests.render(FOLDER)}
    assert set(documents) == {"ConfigMap", "PrometheusRule"}
    assert documents["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(documents["ConfigMap"]["data"]["seqserve.json"])["uid"] == "seqserve"
