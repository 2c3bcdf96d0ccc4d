"""The server exactly as the Deployment runs it, without a container engine: user, root, network, probes, end."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import manifests
import pod_process
from pod_process import ADDRESS, PodProcess
from pods import pod_of

ROOT = Path(__file__).resolve().parent.parent
WHY_NOT = pod_process.why_not() if manifests.can_render() else "rendering needs kubectl, which is not installed"

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"no container can be played here: {WHY_NOT}")

# What a container may do, asked from inside it.
LOOK = """
import json, os, pathlib

def writes(path):
    try:
        pathlib.Path(path, "new").write_text("x")
    except OSError as error:
        return error.strerror
    return "written"

def becomes_root():
    try:
        os.setuid(0)
    except OSError as error:
        return error.strerror
    return "root"

print(json.dumps({
    "user": [os.getuid(), os.getgid(), os.getgroups()], "pid": os.getpid(), "root": becomes_root(),
    "writes": {path: writes(path) for path in ("/", os.getcwd(), "/mnt/models", "/etc", "/usr", "/tmp")},
    "home": os.environ["HOME"], "model": sorted(os.listdir("/mnt/models")),
}))
"""


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    documents = manifests.render(ROOT / "deploy" / "overlays" / "cpu")
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    found = pod_of(deployment)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def grace(pod: dict[str, Any]) -> int:
    """Seconds from SIGTERM to SIGKILL: preStop counts against the grace period."""
    (container,) = pod["spec"]["containers"]
    seconds: int = pod["spec"]["terminationGracePeriodSeconds"] - container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return seconds


def test_the_pod_starts_serves_and_ends_within_its_grace(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    with PodProcess(pod, dockerfile, tiny_bundle, tmp_path) as process:
        while (status := process.probe("startup")) != "SERVING":
            assert status in ("UNAVAILABLE", "NOT_SERVING", "DEADLINE_EXCEEDED")
        assert process.line().startswith("ready grpc=0.0.0.0:50051 metrics=0.0.0.0:9090 models=tiny")
        assert [process.probe(name, timeout=1) for name in ("startup", "readiness", "liveness")] == ["SERVING"] * 3
        status_lines = process.status()
        assert status_lines["Uid"].split() == ["65532"] * 4
        assert status_lines["NSpid"].split()[-1] == "1"
        assert status_lines["NoNewPrivs"] == "1"
        assert {int(status_lines[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
        names = process.order("scrape", url=f"http://{ADDRESS}:9090/metrics")["names"]
        assert "seqserve_requests_waiting" in names

        asked = {"target": f"{ADDRESS}:50051", "token_ids": [5, 17]}
        options = {"max_new_tokens": 128, "min_new_tokens": 128}
        process.order("begin", **asked, options=options)
        alone = process.order("end")
        assert len(alone["token_ids"]) == 128
        process.order("begin", **asked, options=options)
        assert process.probe("readiness") == "SERVING"  # while preStop sleeps nothing has changed
        process.terminate()
        assert process.order("end") == alone
        assert process.exit_code(grace(pod)) == 0, process.log.read_text()
        assert process.probe("readiness") == "UNAVAILABLE"


def test_the_container_may_write_to_nothing_but_tmp(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    with PodProcess(pod, dockerfile, tiny_bundle, tmp_path, command=[sys.executable, "-c", LOOK]) as process:
        seen = json.loads(process.line())
        assert process.exit_code(60) == 0
    read_only = "Read-only file system"
    assert seen == {
        "user": [65532, 65532, [65532]], "pid": 1, "root": "Operation not permitted", "home": "/tmp",
        "writes": dict.fromkeys(("/", "/mnt/models", "/etc", "/usr"), read_only) | {"/tmp": "written"},
        "model": sorted(path.name for path in tiny_bundle.iterdir()),
    }


def test_a_manifest_without_its_security_is_seen_by_the_container(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What shows that the test above could fail."""
    (container,) = pod["spec"]["containers"]
    loose = {**container, "securityContext": {"readOnlyRootFilesystem": False}}
    spec = {**pod["spec"], "containers": [loose], "securityContext": {"runAsUser": 0, "runAsGroup": 0, "fsGroup": 0}}
    changed = {**pod, "spec": spec}
    with PodProcess(changed, dockerfile, tiny_bundle, tmp_path, command=[sys.executable, "-c", LOOK]) as process:
        seen = json.loads(process.line())
    assert seen["user"][0] == 0
    assert seen["writes"]["/"] == "written"


def test_a_server_that_listens_on_itself_alone_is_found_out_by_the_probes(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    (container,) = pod["spec"]["containers"]
    arguments = [argument.replace("0.0.0.0", "127.0.0.1") for argument in container["args"]]
    assert arguments != container["args"]
    changed = {**pod, "spec": {**pod["spec"], "containers": [{**container, "args": arguments}]}}
    with PodProcess(changed, dockerfile, tiny_bundle, tmp_path) as process:
        assert process.line().startswith("ready ")
        assert process.probe("startup") == "UNAVAILABLE"


def test_variables_of_a_service_named_like_the_program_would_keep_it_from_starting(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What the kubelet would set without ``enableServiceLinks: false``."""
    assert pod["spec"]["enableServiceLinks"] is False
    links = {"SEQSERVE_PORT": "tcp://10.0.0.7:50051", "SEQSERVE_SERVICE_HOST": "10.0.0.7"}
    with PodProcess(pod, dockerfile, tiny_bundle, tmp_path, changes=links) as process:
        assert process.exit_code(60) == 2
    assert "SEQSERVE_" in process.log.read_text()


def test_a_bundle_that_the_user_may_not_read_is_told_in_the_last_line(
    pod: dict[str, Any], dockerfile: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for path in tiny_bundle.iterdir():
        (closed / path.name).write_bytes(path.read_bytes())
    with PodProcess(pod, dockerfile, closed, tmp_path) as process:
        assert process.exit_code(60) == 1
    last = process.log.read_text().splitlines()[-1]
    assert last.endswith("/mnt/models/manifest.json: cannot be read: Permission denied")
