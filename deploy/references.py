"""Names in one document that stand for something in another, or in the same one. No schema can see these."""

import re
from collections.abc import Iterator
from typing import Any

from pods import Document, containers_of, pod_of

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
NAMESPACE_IN_QUERY = re.compile(r'namespace="([^"]*)"')


def reference_errors(documents: list[Document]) -> list[str]:
    """One line for each name that leads nowhere. What is outside, such as a Gateway or a claim, is not looked for."""
    checks = {
        "Service": _service, "PodDisruptionBudget": _selects_pods, "NetworkPolicy": _selects_pods,
        "ServiceMonitor": _monitor, "GRPCRoute": _route, "HorizontalPodAutoscaler": _scaler, "ScaledObject": _scaler,
        "InferenceService": _inference_service,
    }
    errors = []
    for document in documents:
        found = [*_queries(document)]
        if (pod := pod_of(document)) is not None:
            found += _pod(document, pod, documents)
        if document["kind"] in checks:
            found += checks[document["kind"]](document, documents)
        errors += [f"{document['kind']}/{document['metadata']['name']}: {error}" for error in found]
    return errors


def _of_kind(documents: list[Document], kind: str, beside: Document) -> list[Document]:
    namespace = beside["metadata"].get("namespace")
    return [each for each in documents if each["kind"] == kind and each["metadata"].get("namespace") == namespace]


def _labels_match(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", selector)
    return bool(wanted) and wanted.items() <= labels.items()


def _pods(selector: dict[str, Any], beside: Document, documents: list[Document]) -> list[Document]:
    namespace = beside["metadata"].get("namespace", "default")
    pods = [pod for pod in map(pod_of, documents) if pod and pod["metadata"]["namespace"] == namespace]
    return [pod for pod in pods if _labels_match(selector, pod["metadata"].get("labels", {}))]


def _pod(document: Document, pod: Document, documents: list[Document]) -> Iterator[str]:
    spec = pod["spec"]
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    account = spec.get("serviceAccountName")
    accounts = {each["metadata"]["name"] for each in _of_kind(documents, "ServiceAccount", document)}
    if account is not None and account not in accounts:
        yield f"no ServiceAccount {account}"
    for container in containers_of(pod):
        ports = {port["containerPort"] for port in container.get("ports", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"container {container['name']} mounts {mount['name']}, which is no volume"
        for name in PROBES:
            probe = container.get(name, {}).get("grpc")
            if probe is not None and probe["port"] not in ports:
                yield f"container {container['name']}: {name} asks port {probe['port']}, which it does not have"
    for constraint in spec.get("topologySpreadConstraints", []):
        if not _labels_match(constraint["labelSelector"], pod["metadata"].get("labels", {})):
            yield f"a spread over {constraint['topologyKey']} that does not count its own pods"


def _service(service: Document, documents: list[Document]) -> Iterator[str]:
    pods = _pods(service["spec"]["selector"], service, documents)
    if not pods:
        yield "selects no pod"
        return
    ports = {port["name"]: port["containerPort"] for each in containers_of(pods[0]) for port in each.get("ports", [])}
    for port in service["spec"]["ports"]:
        if port.get("targetPort", port["port"]) not in (*ports, *ports.values()):
            yield f"port {port['name']} leads to {port['targetPort']}, which no container has"


def _selects_pods(document: Document, documents: list[Document]) -> Iterator[str]:
    selector = document["spec"].get("selector", document["spec"].get("podSelector", {}))
    if not _pods(selector, document, documents):
        yield "selects no pod"


def _monitor(monitor: Document, documents: list[Document]) -> Iterator[str]:
    services = [
        service for service in _of_kind(documents, "Service", monitor)
        if _labels_match(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
    ]
    for endpoint in monitor["spec"]["endpoints"]:
        having = [each for each in services if endpoint["port"] in {port["name"] for port in each["spec"]["ports"]}]
        if len(having) != 1:
            yield f"port {endpoint['port']} is found at {len(having)} Services, so pods are scraped as often"


def _route(route: Document, documents: list[Document]) -> Iterator[str]:
    ports = {
        (service["metadata"]["name"], port["port"])
        for service in _of_kind(documents, "Service", route) for port in service["spec"]["ports"]
    }
    for rule in route["spec"]["rules"]:
        for backend in rule.get("backendRefs", []):
            if (backend["name"], backend["port"]) not in ports:
                yield f"no Service {backend['name']} with port {backend['port']}"


def _scaler(scaler: Document, documents: list[Document]) -> Iterator[str]:
    name = scaler["spec"]["scaleTargetRef"]["name"]
    targets = [each for each in _of_kind(documents, "Deployment", scaler) if each["metadata"]["name"] == name]
    if not targets:
        yield f"no Deployment {name}"
    elif "replicas" in targets[0]["spec"]:
        yield f"Deployment {name} sets replicas, so each apply would undo the scaling"
    others = [each for kind in SCALERS for each in _of_kind(documents, kind, scaler) if each is not scaler]
    if any(each["spec"]["scaleTargetRef"]["name"] == name for each in others):
        yield f"Deployment {name} has two scalers"


def _inference_service(service: Document, documents: list[Document]) -> Iterator[str]:
    model = service["spec"]["predictor"]["model"]
    runtimes = [each for each in documents if each["kind"] == "ClusterServingRuntime"]
    named = [each["spec"] for each in runtimes if each["metadata"]["name"] == model.get("runtime")]
    if not named:
        yield f"no ClusterServingRuntime {model.get('runtime')}"
        return
    formats = [(each["name"], each.get("version")) for each in named[0]["supportedModelFormats"]]
    wanted = model["modelFormat"]["name"], model["modelFormat"].get("version")
    if wanted not in formats:
        yield f"model format {wanted} is none of its runtime's"
    if model.get("protocolVersion") not in named[0]["protocolVersions"]:
        yield f"protocol {model.get('protocolVersion')} is none of its runtime's"


def queries_of(document: Document) -> list[str]:
    """PromQL by which a document scales something."""
    spec = document.get("spec", {})
    if document["kind"] == "ScaledObject":
        return [trigger["metadata"]["query"] for trigger in spec["triggers"] if trigger["type"] == "prometheus"]
    if document["kind"] == "InferenceService":
        metrics = spec["predictor"].get("autoScaling", {}).get("metrics", [])
        return [metric["external"]["metric"]["query"] for metric in metrics if metric["type"] == "External"]
    return []


def _queries(document: Document) -> Iterator[str]:
    own = document["metadata"].get("namespace")
    for query in queries_of(document):
        if wrong := sorted({found for found in NAMESPACE_IN_QUERY.findall(query) if found != own}):
            yield f"is in namespace {own} and asks about {', '.join(wrong)}"
