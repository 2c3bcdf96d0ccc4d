"""Write what of deploy/monitoring is made from something else: the Grafana dashboard, and the rules as an object.

    python deploy/monitoring_files.py

The dashboard is listed here row by row: its JSON is long, and nobody would see in it what a panel asks for.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent / "monitoring"
POD = 'namespace=~"$namespace", pod=~"$pod"'
MODEL = f'{POD}, model_name=~"$model"'
RATE = "[$__rate_interval]"
WIDTH, HEIGHT = 24, 8  # of Grafana's grid, and of a panel


@dataclass(frozen=True)
class Panel:
    """Lines over time.

    Attributes:
        unit: One of Grafana's.
        queries: Expressions and legends.
        meaning: Said in the panel's corner.
        stacked: Whether the lines add up to something.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    meaning: str
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one heading, side by side."""

    title: str
    panels: list[Panel] = field(default_factory=list)


def percentiles(
    metric: str, selector: str = MODEL, *, percents: tuple[int, ...] = (50, 90, 99), name: str = ""
) -> tuple[tuple[str, str], ...]:
    """Of a histogram, over everything that is chosen."""
    return tuple(
        (f"histogram_quantile({percent / 100:g}, sum by (le) (rate({metric}_bucket{{{selector}}}{RATE})))",
         f"{name} p{percent}".strip())
        for percent in percents
    )


def rate(metric: str, by: str = "", selector: str = MODEL) -> str:
    """Of a counter, a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}{RATE}))"


ROWS = [
    Row("Requests", [
        Panel("Calls", "reqps", ((rate("grpc_server_handled_total", "grpc_method", POD) + " > 0", "{{grpc_method}}"),),
              "Calls ended per second, of every method that was called.", stacked=True),
        Panel("Calls that did not end with OK", "percentunit", ((
            rate("grpc_server_handled_total", "grpc_code", f'{POD}, grpc_code!="OK"')
            + f" / on () group_left () {rate('grpc_server_handled_total', '', POD)} > 0", "{{grpc_code}}"),),
              "Part of all calls, by gRPC code.", stacked=True),
        Panel("Duration of requests", "s", percentiles("seqserve_request_duration_seconds"),
              "From arrival to the last token, in the server."),
    ]),
    Row("Latency", [
        Panel("Time to first token", "s", percentiles("seqserve_time_to_first_token_seconds"), "From arrival."),
        Panel("Between tokens", "s", (
            *percentiles("seqserve_inter_token_seconds"),
            *percentiles("seqserve_time_per_output_token_seconds", percents=(50,), name="mean of a request,"),
        ), "Between two tokens of one request; beside them the mean of each request."),
        Panel("Where the time goes", "s", (
            *percentiles("seqserve_request_queue_seconds", percents=(50, 99), name="queue"),
            *percentiles("seqserve_encode_seconds", percents=(50, 99), name="encode"),
            *percentiles("seqserve_decode_seconds", percents=(50, 99), name="decode"),
        ), "Waiting and decoding are of one request, encoding of one batch."),
    ]),
    Row("Queue and batch", [
        Panel("Requests", "none", (
            (f"sum (seqserve_requests_waiting{{{MODEL}}})", "waiting"),
            (f"sum (seqserve_requests_running{{{MODEL}}})", "running"),
            (f"sum (seqserve_requests_open{{{POD}}})", "let in and not ended"),
            (f"sum (seqserve_max_waiting_requests{{{POD}}})", "most that may wait"),
        ), "What waits for rows, what holds them, and how many may wait."),
        Panel("Refused requests", "reqps", (
            (rate("seqserve_requests_rejected_total", "reason", POD) + " > 0", "{{reason}}"),
        ), "Per second, by the reason in ErrorInfo.", stacked=True),
        Panel("Rows of a decoder step", "none", (
            (f"{rate('seqserve_batch_rows_sum')} / {rate('seqserve_batch_rows_count')}", "mean"),
            *percentiles("seqserve_batch_rows", percents=(90,)),
            (f"max (seqserve_max_rows{{{POD}}})", "most"),
        ), "How full the batch is."),
    ]),
    Row("Work", [
        Panel("Tokens", "none", (
            (rate("seqserve_input_tokens_total"), "read"), (rate("seqserve_output_tokens_total"), "generated"),
            (rate("seqserve_scored_tokens_total"), "scored"),
        ), "Per second."),
        Panel("Tokens of a request", "none", (
            *percentiles("seqserve_request_input_tokens", percents=(50, 99), name="input"),
            *percentiles("seqserve_request_output_tokens", percents=(50, 99), name="output"),
        ), "What users send and get: a change here explains one of the latency."),
        Panel("How requests end", "reqps", (
            (rate("seqserve_requests_total", "finish_reason") + " > 0", "{{finish_reason}}"),
        ), "Per second.", stacked=True),
    ]),
    Row("Engine", [
        Panel("Decoder step", "s", percentiles("seqserve_decode_step_seconds"), "One step over all running rows."),
        Panel("Encoder and scorer", "s", (
            *percentiles("seqserve_encode_seconds", percents=(50, 99), name="encoder batch"),
            *percentiles("seqserve_score_seconds", percents=(50, 99), name="pass over pairs"),
        ), "One batch of sources, one pass over pairs."),
        Panel("Caches", "percentunit", (
            (f"max (seqserve_cache_usage_ratio{{{MODEL}}})", "attention caches, of --cache-bytes"),
            (f"{rate('seqserve_encoder_cache_hits_total')} / ({rate('seqserve_encoder_cache_hits_total')} + "
             f"{rate('seqserve_encoder_cache_misses_total')})", "sources found encoded"),
        ), "Memory of the running batch; how often a source comes again."),
    ]),
    Row("Objectives", [
        Panel("Calls that failed", "percentunit", tuple(
            (f'namespace_job:seqserve_errors:ratio_rate{window}{{namespace=~"$namespace"}}', f"{{{{job}}}} {window}")
            for window in ("5m", "1h", "6h")
        ), "The objective is 0.1 %; recorded by rules.yaml."),
        Panel("Requests over 2.56 s", "percentunit", tuple(
            (f'namespace_job:seqserve_slow:ratio_rate{window}{{namespace=~"$namespace"}}', f"{{{{job}}}} {window}")
            for window in ("5m", "1h", "6h")
        ), "The objective is 1 %; recorded by rules.yaml."),
        Panel("Demand", "none", (('namespace_job:seqserve_demand:sum{namespace=~"$namespace"}', "{{job}}"),),
              "Requests that wait, and those refused in a second: what to scale on."),
    ]),
    Row("Processes", [
        Panel("Ready replicas", "none", (
            (f"sum (seqserve_ready{{{POD}}})", "ready"),
            (f"count by (version) (seqserve_build_info{{{POD}}})", "version {{version}}"),
            (f"count by (model_name, model_version) (seqserve_model_info{{{MODEL}}})",
             "{{model_name}} {{model_version}}"),
        ), "Replicas that serve, and what they serve."),
        Panel("Processor", "none", ((
            f"rate(process_cpu_seconds_total{{{POD}}}{RATE}) and on (namespace, job, instance) seqserve_build_info",
            "{{pod}}"),), "Cores in use."),
        Panel("Memory", "bytes", (
            (f"process_resident_memory_bytes{{{POD}}} and on (namespace, job, instance) seqserve_build_info",
             "{{pod}} resident"),
            (f"sum by (pod) (seqserve_cache_bytes{{{MODEL}}})", "{{pod}} attention caches"),
            (f"sum by (pod) (seqserve_encoder_cache_bytes{{{MODEL}}})", "{{pod}} encoded sources"),
        ), "Of the process, and what of it is caches."),
    ]),
]


def queries() -> list[str]:
    """Every expression of the dashboard."""
    return [expression for row in ROWS for panel in row.panels for expression, _ in panel.queries]


def dashboard() -> dict[str, Any]:
    """As Grafana takes it, by import or from a ConfigMap."""
    panels: list[dict[str, Any]] = []
    for place, row in enumerate(ROWS):
        top = place * (HEIGHT + 1)
        panels.append({
            "id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        })
        width = WIDTH // len(row.panels)
        for column, panel in enumerate(row.panels):
            position = {"x": column * width, "y": top + 1, "w": width, "h": HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": position, **_panel(panel)})
    return {
        "uid": "seqserve", "title": "Seqserve", "tags": ["seqserve"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "templating": {"list": _variables()}, "annotations": {"list": []}, "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    drawn = {"fillOpacity": 25 if panel.stacked else 0, "showPoints": "never", "spanNulls": False,
             "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}
    return {
        "type": "timeseries", "title": panel.title, "description": panel.meaning, "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    ]
    for name, query in (
        ("namespace", "label_values(seqserve_ready, namespace)"),
        ("pod", 'label_values(seqserve_ready{namespace=~"$namespace"}, pod)'),
        ("model", 'label_values(seqserve_model_info{namespace=~"$namespace", pod=~"$pod"}, model_name)'),
    ):
        found.append({
            "name": name, "label": name.capitalize(), "type": "query", "query": query, "definition": query,
            "datasource": {"type": "prometheus", "uid": "${datasource}"}, "refresh": 2, "multi": True,
            # ".*" and not a list of all values: where targets have no such label, everything is meant.
            "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        })
    return found


def prometheus_rule() -> dict[str, Any]:
    """The rules as the Prometheus Operator takes them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
        # The second is what the operator's Helm chart looks for, as in components/servicemonitor.
        "metadata": {"name": "seqserve", "labels": {
            "app.kubernetes.io/name": "seqserve", "release": "kube-prometheus-stack",
        }},
        "spec": yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8")),
    }


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as they are read."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A block where there are several lines."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _Blocks.represent_text)


def written() -> dict[str, str]:
    """Texts of the files by their names."""
    note = "# yamllint disable-file\n# Written by deploy/monitoring_files.py from rules.yaml.\n"
    return {
        "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        "prometheusrule.yaml": note + yaml.dump(prometheus_rule(), Dumper=_Blocks, sort_keys=False, width=110),
    }


def main() -> int:
    """Write them."""
    for name, text in written().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{FOLDER.name}/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
