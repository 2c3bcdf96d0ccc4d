"""The deployment files against each other and against the program they deploy."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import manifests
from seqserve_server.config import ServerConfig, add_arguments, resolve
from seqserve_server.server import HEALTH_NAMES, LIVENESS

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "seqserve.v1.Seq2SeqService"

needs_kubectl = pytest.mark.skipif(not manifests.can_render(), reason="rendering needs kubectl, which is not installed")


def resolved(command: list[str], environment: dict[str, str]) -> ServerConfig:
    assert command[0] == "serve"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return resolve(vars(parser.parse_args(command[1:])), environment)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return manifests.render(ROOT / "deploy" / "overlays" / "cpu")


@pytest.fixture(scope="module")
def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The Deployment's pod template."""
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    assert isinstance(template, dict)
    return template


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture(scope="module")
def config(container: dict[str, Any]) -> ServerConfig:
    """What the server makes of the container's arguments and environment."""
    return resolved(container["args"], {variable["name"]: "2" for variable in container["env"]})


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


@needs_kubectl
def test_the_base_alone_is_valid() -> None:
    assert manifests.all_errors(manifests.render(ROOT / "deploy" / "base")) == []


@needs_kubectl
def test_an_unknown_field_is_found(documents: list[dict[str, Any]]) -> None:
    (account,) = (document for document in documents if document["kind"] == "ServiceAccount")
    broken = [{**account, "automountServiceAccountTokens": False}]
    assert len(manifests.schema_errors(broken)) == len(manifests.VERSIONS)


@needs_kubectl
def test_probes_ask_the_port_and_services_that_the_server_offers(
    container: dict[str, Any], config: ServerConfig,
) -> None:
    assert SERVICE in HEALTH_NAMES
    probes = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["service"] for name, probe in probes.items()} == {
        "startup": SERVICE, "readiness": SERVICE, "liveness": LIVENESS,
    }
    assert {probe["port"] for probe in probes.values()} == {config.port}


@needs_kubectl
def test_services_lead_to_the_ports_that_are_served(
    documents: list[dict[str, Any]], container: dict[str, Any], config: ServerConfig,
) -> None:
    served = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert served == {"grpc": config.port, "metrics": config.metrics_port}
    services = [document for document in documents if document["kind"] == "Service"]
    assert len(services) == 2
    for port in (port for service in services for port in service["spec"]["ports"]):
        assert port["targetPort"] == port["name"]
        assert port["port"] == served[port["name"]]


@needs_kubectl
def test_every_selector_finds_the_pods(documents: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"].items()
    specs = [document["spec"] for document in documents if "spec" in document]
    selectors = [spec.get("selector", spec.get("podSelector")) for spec in specs]
    selectors += [constraint["labelSelector"] for constraint in pod["spec"]["topologySpreadConstraints"]]
    assert len(selectors) == 7
    for selector in selectors:
        wanted = selector.get("matchLabels", selector)
        assert wanted
        assert wanted.items() <= labels


@needs_kubectl
def test_the_pod_may_do_nothing_but_serve(pod: dict[str, Any], container: dict[str, Any]) -> None:
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]} == {
        "model": True, "tmp": False,
    }


@needs_kubectl
def test_a_service_named_like_the_program_sets_none_of_its_settings(pod: dict[str, Any]) -> None:
    assert pod["spec"]["enableServiceLinks"] is False


@needs_kubectl
def test_the_pod_listens_on_every_address_with_as_many_threads_as_it_has_cores(
    container: dict[str, Any], config: ServerConfig,
) -> None:
    assert config.host == "0.0.0.0"
    assert config.insecure or config.tls_cert  # else it would not start
    assert config.threads == 2
    assert container["env"] == [
        {"name": "SEQSERVE_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
    ]


@needs_kubectl
def test_the_pod_has_time_to_drain(pod: dict[str, Any], container: dict[str, Any], config: ServerConfig) -> None:
    before_sigterm = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= before_sigterm + config.drain_seconds + 10


@needs_kubectl
def test_the_caches_leave_memory_for_the_rest(container: dict[str, Any], config: ServerConfig) -> None:
    memory = re.fullmatch(r"(\d+)Gi", container["resources"]["limits"]["memory"])
    assert memory is not None
    assert config.cache_bytes + 2**30 <= int(memory.group(1)) * 2**30


@needs_kubectl
def test_image_and_pod_agree(
    pod: dict[str, Any], container: dict[str, Any], config: ServerConfig, dockerfile: str,
) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert user is not None
    security = pod["spec"]["securityContext"]
    assert user.groups() == (str(security["runAsUser"]), str(security["runAsGroup"]))
    exposed = re.search(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    assert exposed is not None
    assert exposed.group(1).split() == [str(port["containerPort"]) for port in container["ports"]]
    command = re.search(r"^CMD (.+)$", dockerfile, re.MULTILINE)
    assert command is not None
    image = resolved(yaml.safe_load(command.group(1)), {})
    assert (image.bundles, image.host, image.port, image.metrics_port, image.insecure) == (
        config.bundles, config.host, config.port, config.metrics_port, config.insecure,
    )
    (model,) = (mount for mount in container["volumeMounts"] if mount["name"] == "model")
    assert [model["mountPath"]] == [str(bundle) for bundle in config.bundles]
