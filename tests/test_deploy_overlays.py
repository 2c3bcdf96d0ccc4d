"""Every overlay: valid as a whole, and each fits the program it deploys."""

import argparse
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import generate_latest

import context
import manifests
from arithmetic_engine import ArithmeticEngine
from pod_process import container_environment
from pods import Document, containers_of, pod_of
from references import queries_of
from seqserve import __version__
from seqserve_server.call_metrics import CallMetrics
from seqserve_server.config import add_arguments, resolve, settings
from seqserve_server.metrics import ModelLabels, ModelMetrics
from seqserve_server.served_model import DEFAULT_MAX_ROWS
from seqserve_server.server_metrics import make_registry

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = sorted(path.parent.name for path in (ROOT / "deploy" / "overlays").glob("*/kustomization.yaml"))
OURS = {"QUEUE_FULL", "DEADLINE_UNREACHABLE", "DEADLINE_IN_QUEUE"}
METRIC = re.compile(r"\b((?:seqserve|grpc_server)_[a-z_]+)\b")

pytestmark = pytest.mark.skipif(not manifests.can_render(), reason="rendering needs kubectl, which is not installed")


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Document]]:
    return {name: manifests.render(ROOT / "deploy" / "overlays" / name) for name in OVERLAYS}


def one(documents: list[Document], kind: str, name: str | None = None) -> Document:
    (found,) = (each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return found


def server(documents: list[Document]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's spec and its container."""
    pod = pod_of(one(documents, "Deployment"))
    assert pod is not None
    (container,) = pod["spec"]["containers"]
    return pod["spec"], container


def test_there_are_the_overlays_that_the_documentation_names() -> None:
    told = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    components = {path.parent.name for path in (ROOT / "deploy" / "components").glob("*/kustomization.yaml")}
    assert set(re.findall(r"overlays/([a-z-]+)", told)) == set(OVERLAYS)
    assert set(re.findall(r"components/([a-z-]+)", told)) == components


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid(rendered: dict[str, list[Document]], name: str) -> None:
    assert manifests.all_errors(rendered[name]) == []


def test_every_component_is_rendered_by_some_overlay() -> None:
    used = {
        Path(path).name
        for overlay in OVERLAYS
        for path in yaml.safe_load((ROOT / "deploy" / "overlays" / overlay / "kustomization.yaml").read_text()).get(
            "components", []
        )
    }
    assert used == {path.parent.name for path in (ROOT / "deploy" / "components").glob("*/kustomization.yaml")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_image_is_left_without_registry_and_tag(rendered: dict[str, list[Document]], name: str) -> None:
    pods = [pod for pod in map(pod_of, rendered[name]) if pod is not None]
    images = {container["image"] for pod in pods for container in containers_of(pod)}
    assert images
    named = re.compile(r"registry\.example\.com/[a-z/-]+:[0-9][a-z0-9.-]*")
    assert [image for image in images if not named.fullmatch(image)] == []


def test_the_version_is_the_programs_everywhere(rendered: dict[str, list[Document]]) -> None:
    _, container = server(rendered["cpu"])
    assert container["image"].endswith(f":{__version__}")
    assert server(rendered["gpu"])[1]["image"].endswith(f":{__version__}-gpu")
    assert one(rendered["cpu"], "Deployment")["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG VERSION=(.+)$", dockerfile, re.MULTILINE) == [__version__]
    runtime = pod_of(one(rendered["kserve"], "ClusterServingRuntime"))
    assert runtime is not None
    assert runtime["spec"]["containers"][0]["image"] == container["image"]


def test_names_are_asked_of_the_clusters_own_server(rendered: dict[str, list[Document]]) -> None:
    """Kustomize adds our labels to every matchLabels of pods; a rule that has them lets nothing out."""
    egress = one(rendered["cpu"], "NetworkPolicy")["spec"]["egress"]
    (names,) = (rule for rule in egress if {port["port"] for port in rule["ports"]} == {53})
    assert names["to"][0]["podSelector"] == {
        "matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]
    }


def test_on_cuda_the_pod_asks_for_a_gpu_and_for_nothing_that_the_server_does_not_know(
    rendered: dict[str, list[Document]],
) -> None:
    pod, container = server(rendered["gpu"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["SEQSERVE_DEVICE"] == "cuda"
    known = {f"SEQSERVE_{entry.name.upper()}" for entry in settings()}
    assert {name for name in environment if name.startswith("SEQSERVE_")} <= known
    (cache,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "tmp")
    assert str(environment["CUDA_CACHE_PATH"]).startswith(f"{cache}/")


@pytest.mark.parametrize("name", sorted(set(OVERLAYS) - {"kserve"}))
def test_the_server_takes_what_an_overlay_gives_it(rendered: dict[str, list[Document]], name: str) -> None:
    _, container = server(rendered[name])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = vars(parser.parse_args(container["args"][1:]))
    config = resolve(options, container_environment(container))
    probed = {container[f"{probe}Probe"]["grpc"]["port"] for probe in ("startup", "readiness", "liveness")}
    assert probed == {config.port if config.tls_cert is None else config.health_port}
    assert config.insecure is (config.tls_cert is None)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [path for path in (config.tls_cert, config.tls_key, config.auth_tokens_file) if path is not None]
    assert {str(path.parent) for path in files} <= mounts
    assert len(files) == (3 if name == "tls" else 0)


def test_with_tls_no_service_says_that_it_speaks_without(rendered: dict[str, list[Document]]) -> None:
    for name, protocols in (("cpu", {"kubernetes.io/h2c"}), ("tls", {None})):
        services = [document for document in rendered[name] if document["kind"] == "Service"]
        ports = [port for service in services for port in service["spec"]["ports"] if port["name"] == "grpc"]
        assert len(ports) == 2
        assert {port.get("appProtocol") for port in ports} == protocols


@pytest.mark.parametrize(("name", "source"), [("model-init", "emptyDir"), ("model-image", "image")])
def test_the_model_comes_from_one_place(rendered: dict[str, list[Document]], name: str, source: str) -> None:
    pod, _ = server(rendered[name])
    (volume,) = (each for each in pod["volumes"] if each["name"] == "model")
    assert volume.keys() == {"name", source}


@pytest.mark.parametrize("name", ["keda", "hpa"])
def test_what_is_scaled_has_no_number_of_its_own(rendered: dict[str, list[Document]], name: str) -> None:
    assert "replicas" not in one(rendered[name], "Deployment")["spec"]
    assert one(rendered["cpu"], "Deployment")["spec"]["replicas"] == 2


def exported() -> list[str]:
    """Every series that a server exposes, from the start, as its metrics page has them."""
    registry = make_registry()
    CallMetrics(registry)
    labels = ModelLabels("m", "1", "native", "fp32")
    metrics = ModelMetrics(labels, 1 << 20)
    metrics.attach(labels, ArithmeticEngine())
    registry.register(metrics)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def exported_names() -> set[str]:
    """Their names."""
    return {re.split(r"[{ ]", line)[0] for line in exported()}


def scaling_queries(rendered: dict[str, list[Document]]) -> tuple[list[str], list[str]]:
    """Of KEDA and KServe, and of prometheus-adapter with its blanks filled in."""
    queries = [query for documents in rendered.values() for each in documents for query in queries_of(each)]
    adapter = yaml.safe_load((ROOT / "deploy/components/hpa/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    return queries, [
        rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].split("{")[0])
        .replace("<<.LabelMatchers>>", 'namespace="seqserve"').replace("<<.GroupBy>>", "pod")
        for rule in adapter["rules"]["custom"]
    ]


def test_a_refusal_for_want_of_place_or_time_is_demand_and_a_callers_mistake_is_none(
    rendered: dict[str, list[Document]],
) -> None:
    reasons = set(re.findall(r'requests_rejected_total\{reason="([A-Z_]+)"', "\n".join(exported())))
    counted = [
        {reason for reason in reasons if re.fullmatch(match[1], reason)}
        for queries in scaling_queries(rendered) for query in queries
        if (match := re.search(r'requests_rejected_total\{[^}]*reason=~"([^"]+)"', query))
    ]
    assert len(counted) == 4  # overlays/keda and production, KServe, prometheus-adapter
    assert counted == [OURS] * 4
    assert reasons > OURS


def test_rules_and_dashboard_come_with_what_they_look_at(rendered: dict[str, list[Document]]) -> None:
    for name in ("monitoring", "production"):
        kinds = ("PrometheusRule", "ServiceMonitor")
        releases = {one(rendered[name], kind)["metadata"]["labels"]["release"] for kind in kinds}
        assert len(releases) == 1  # by which the operator's Prometheus chooses both
        spaces = {one(rendered[name], kind)["metadata"]["namespace"] for kind in (*kinds, "Deployment", "ConfigMap")}
        assert spaces == {"seqserve"}


def test_what_is_scaled_on_is_what_the_server_exposes(rendered: dict[str, list[Document]]) -> None:
    queries, filled = scaling_queries(rendered)
    assert len(queries) >= 6
    for query in (*queries, *filled):
        promql_parser.parse(query)
        names = set(METRIC.findall(query))
        assert names
        assert names <= exported_names()
    adapter = yaml.safe_load((ROOT / "deploy/components/hpa/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    provided = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    metrics = one(rendered["hpa"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in metrics} == provided


def test_all_three_ways_scale_by_the_same_numbers_and_below_what_a_replica_holds(
    rendered: dict[str, list[Document]],
) -> None:
    keda = one(rendered["keda"], "ScaledObject")["spec"]["triggers"]
    hpa = one(rendered["hpa"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    kserve = one(rendered["kserve"], "InferenceService")["spec"]["predictor"]["autoScaling"]["metrics"]
    numbers = [int(trigger["metadata"]["threshold"]) for trigger in keda]
    assert numbers == [int(metric["pods"]["target"]["averageValue"]) for metric in hpa]
    assert numbers == [int(metric["external"]["target"]["value"]) for metric in kserve]
    waiting, running = numbers
    assert 0 < waiting < running < DEFAULT_MAX_ROWS
    assert [trigger["metadata"]["ignoreNullValues"] for trigger in keda] == ["false"] * 2


def test_kserve_runs_the_container_that_the_base_runs(rendered: dict[str, list[Document]]) -> None:
    """But for its name, its one port, and the security that a runtime cannot have for the whole pod."""
    pod, base = server(rendered["cpu"])
    runtime = pod_of(one(rendered["kserve"], "ClusterServingRuntime"))
    assert runtime is not None
    (container,) = runtime["spec"]["containers"]
    same = base.keys() - {"name", "ports", "securityContext", "volumeMounts"}
    assert {name: container[name] for name in same} == {name: base[name] for name in same}
    whole = {name: pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "seccompProfile")}
    assert container["securityContext"] == {**base["securityContext"], **whole}
    predictor = one(rendered["kserve"], "InferenceService")["spec"]["predictor"]
    shared = ("enableServiceLinks", "automountServiceAccountToken", "terminationGracePeriodSeconds")
    assert {name: predictor[name] for name in shared} == {name: pod[name] for name in shared}


def test_the_route_leads_to_every_service_of_the_server(rendered: dict[str, list[Document]]) -> None:
    route = one(rendered["grpcroute"], "GRPCRoute")
    services = {match["method"]["service"] for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert {"seqserve.v1.Seq2SeqService", "grpc.health.v1.Health"} <= services
    ingress = one(rendered["grpcroute"], "NetworkPolicy")["spec"]["ingress"]
    spaces = [
        peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name")
        for rule in ingress for peer in rule["from"] if "namespaceSelector" in peer
    ]
    assert route["spec"]["parentRefs"][0]["namespace"] in spaces


def test_the_build_context_has_what_the_build_reads(tmp_path: Path) -> None:
    context.copy_context(tmp_path / "context")
    copied = {path.relative_to(tmp_path / "context").as_posix() for path in (tmp_path / "context").rglob("*")}
    assert {"pyproject.toml", "deploy/locks/build.txt", "hatch_build.py", "server/native/build.py"} <= copied
    read = re.findall(r"(?:-r|COPY) (deploy/\S+)", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    assert len(read) == 3
    assert set(read) <= copied
    assert not {path for path in copied if re.search(r"(^|/)(\.git|tests|demo|var|__pycache__)(/|$)|\.so\.1$", path)}


@pytest.mark.parametrize("ignore", ["server\n", "*\n!server/**/*.py\n", "*\n*.md\n"])
def test_a_list_of_ignored_files_that_is_more_than_a_list_of_allowed_ones_is_refused(ignore: str) -> None:
    with pytest.raises(ValueError, match=r"\.dockerignore"):
        context.allowed(ignore)
