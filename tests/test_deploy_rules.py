"""Negative controls: manifests that are broken in one place each, and the words by which that is told."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import kserve_models
import manifests
from pods import Document

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not manifests.can_render(), reason="rendering needs kubectl, which is not installed")


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Document]]:
    names = ("production", "hpa", "kserve", "model-init")
    return {name: manifests.render(ROOT / "deploy" / "overlays" / name) for name in names}


def container(deployment: Document) -> dict[str, Any]:
    found = deployment["spec"]["template"]["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


def set_at(path: str, value: Any) -> Callable[[Document], None]:
    """Put a value at a dotted path below ``spec``; numbers are list positions."""

    def change(document: Document) -> None:
        *steps, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        place: Any = document["spec"]
        for step in steps:
            place = place[step]
        place[last] = value

    return change


def remove_at(path: str) -> Callable[[Document], None]:
    """Take a field away."""

    def change(document: Document) -> None:
        *steps, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        place: Any = document["spec"]
        for step in steps:
            place = place[step]
        del place[last]

    return change


POD = "template.spec"
SERVER = f"{POD}.containers.0"

BROKEN: list[tuple[str, str, Callable[[Document], None], str]] = [
    # Pods, by Kubernetes' own schemas
    ("production", "Deployment", set_at(f"{SERVER}.readinessProbe.grpc.port", "grpc"), "is not of type 'integer'"),
    ("production", "Deployment", set_at(f"{SERVER}.livenesProbe", {}), "livenesProbe"),
    ("hpa", "HorizontalPodAutoscaler", set_at("minReplica", 2), "minReplica"),
    ("kserve", "ClusterServingRuntime", set_at("containers.0.readinessProbe.grpc.port", "grpc"), "type 'integer'"),
    # Pod Security
    ("production", "Deployment", remove_at(f"{POD}.securityContext.seccompProfile"), "seccompProfile"),
    ("production", "Deployment", set_at(f"{POD}.securityContext.runAsUser", 0), "runAsUser"),
    ("production", "Deployment", remove_at(f"{SERVER}.securityContext.allowPrivilegeEscalation"), "PrivilegeEscal"),
    ("production", "Deployment", remove_at(f"{SERVER}.securityContext.capabilities"), "capabilities"),
    ("production", "Deployment", set_at(f"{SERVER}.securityContext.readOnlyRootFilesystem", False), "readOnlyRoot"),
    ("production", "Deployment", set_at(f"{POD}.hostNetwork", True), "hostNetwork"),
    ("production", "Deployment", set_at(f"{POD}.volumes.1", {"name": "tmp", "hostPath": {"path": "/"}}), "hostPath"),
    ("production", "Job", remove_at(f"{SERVER}.securityContext.capabilities"), "capabilities"),
    ("model-init", "Deployment", set_at(f"{POD}.initContainers.0.securityContext.privileged", True), "privileged"),
    ("kserve", "ClusterServingRuntime", remove_at("containers.0.securityContext.runAsNonRoot"), "runAsNonRoot"),
    # Custom resources, by our own schemas
    ("production", "ScaledObject", set_at("maxReplicas", 3), "maxReplicas"),
    ("production", "ScaledObject", set_at("triggers.0.metadata.threshold", 8), "is not of type 'string'"),
    ("production", "ScaledObject", remove_at("triggers.0.metadata.query"), "'query' is a required property"),
    ("production", "ScaledObject", set_at("triggers.0.metadata.ignoreNullValue", "false"), "ignoreNullValue"),
    ("production", "GRPCRoute", set_at("rules.0.matches.0.method.path", "/x"), "path"),
    ("production", "GRPCRoute", set_at("rules.0.backendRefs.0.port", "grpc"), "is not of type 'integer'"),
    ("production", "GRPCRoute", set_at("hostname", "x"), "hostname"),
    ("production", "ServiceMonitor", set_at("endpoints.0.interval", "15"), "does not match"),
    ("production", "ServiceMonitor", set_at("endpoints.0.portt", "x"), "portt"),
    ("kserve", "ClusterServingRuntime", set_at("supportedModelFormats.0.autoselect", True), "autoselect"),
    ("kserve", "ClusterServingRuntime", set_at("containers.0.name", "server"), "does not contain"),
    ("kserve", "InferenceService", set_at("predictor.model.modelURI", "s3://x"), "modelURI"),
    ("kserve", "InferenceService", remove_at("predictor.autoScaling.metrics.0.external.target.value"), "'value'"),
    # Names that lead nowhere
    ("production", "Deployment", set_at(f"{SERVER}.livenessProbe.grpc.port", 50052), "livenessProbe asks port 50052"),
    ("production", "Deployment", set_at(f"{SERVER}.volumeMounts.0.name", "models"), "mounts models"),
    ("production", "Deployment", set_at(f"{POD}.serviceAccountName", "other"), "no ServiceAccount other"),
    ("production", "Deployment", set_at("replicas", 2), "undo the scaling"),
    ("production", "PodDisruptionBudget", set_at("selector.matchLabels", {"app": "x"}), "selects no pod"),
    ("production", "GRPCRoute", set_at("rules.0.backendRefs.0.port", 9091), "no Service seqserve with port 9091"),
    ("production", "ServiceMonitor", set_at("endpoints.0.port", "grpc"), "is found at 2 Services"),
    ("production", "ScaledObject", set_at("scaleTargetRef.name", "other"), "no Deployment other"),
    ("production", "ScaledObject", set_at("triggers.1.metadata.query", 'sum(x{namespace="a"})'), "asks about a"),
    ("kserve", "InferenceService", set_at("predictor.model.runtime", "other"), "no ClusterServingRuntime other"),
    ("kserve", "InferenceService", set_at("predictor.model.modelFormat.name", "onnx"), "model format"),
]


@pytest.mark.parametrize(("overlay", "kind", "change", "told"), BROKEN, ids=[f"{row[1]}-{row[3]}" for row in BROKEN])
def test_a_broken_manifest_is_told(
    rendered: dict[str, list[Document]], overlay: str, kind: str, change: Callable[[Document], None], told: str
) -> None:
    documents = copy.deepcopy(rendered[overlay])
    change(next(document for document in documents if document["kind"] == kind))
    errors = manifests.all_errors(documents)
    assert any(told in error for error in errors), errors


def test_without_run_as_non_root_anywhere_the_pod_is_refused(rendered: dict[str, list[Document]]) -> None:
    documents = copy.deepcopy(rendered["production"])
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    del deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    assert manifests.all_errors(documents) == []  # the container's own word is enough
    del container(deployment)["securityContext"]["runAsNonRoot"]
    assert manifests.all_errors(documents) == [
        "Deployment/seqserve: Pod Security: container server: runAsNonRoot is not true"
    ]


def test_a_kind_that_nothing_describes_is_not_passed_over() -> None:
    errors = manifests.schema_errors([{"apiVersion": "x.io/v1", "kind": "Thing", "metadata": {"name": "a"}}])
    assert len(errors) == len(manifests.VERSIONS)


def test_two_scalers_of_one_deployment_are_told(rendered: dict[str, list[Document]]) -> None:
    (second,) = (document for document in rendered["hpa"] if document["kind"] == "HorizontalPodAutoscaler")
    errors = manifests.all_errors([*rendered["production"], second])
    assert [error for error in errors if "two scalers" in error]


def test_image_volumes_are_held_against_versions_that_have_them(rendered: dict[str, list[Document]]) -> None:
    documents = copy.deepcopy(rendered["model-init"])
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    volumes[0] = {"name": "model", "image": {"reference": "r", "pullPolicies": "Always"}}
    errors = manifests.all_errors(documents)
    assert {re.findall(r"Kubernetes (\S+):", error)[0] for error in errors} == set(manifests.IMAGE_VOLUME_VERSIONS)


def test_every_schema_of_ours_says_that_it_is_a_part_and_refuses_what_it_does_not_know() -> None:
    paths = sorted(manifests.SCHEMAS.glob("*.json"))
    assert len(paths) == 6
    for path in paths:
        schema = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "hand-written subset" in schema["description"]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["spec"]["additionalProperties"] is False


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  group: keda.sh
  names: {kind: ScaledObject}
  versions:
    - name: v1alpha1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            metadata: {type: object}
            spec:
              type: object
              properties:
                description: {type: string}
                threshold: {x-kubernetes-int-or-string: true, type: string}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


def test_definitions_of_a_cluster_are_taken_at_their_word(tmp_path: Path) -> None:
    (tmp_path / "crd.yaml").write_text(DEFINITION, encoding="utf-8")
    defined = manifests.defined_schemas(tmp_path)
    head: Document = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "a"}}

    def told(**spec: Any) -> list[str]:
        own = "its definition: "
        errors = manifests.all_errors([{**head, "spec": spec}], defined)
        return [error.partition(own)[2] for error in errors if own in error]

    fitting = {"description": "x", "threshold": 8, "free": {"a": 1}}
    # The document lacks all that our own schema wants, which is not what is looked at here.
    base = {"scaleTargetRef": {"name": "x"}, "triggers": []}
    assert [error for error in told(**base, **fitting) if "scaleTargetRef" not in error] == []
    assert "thresholds" in "".join(told(**base, **fitting, thresholds=1))


def test_fields_that_kserves_own_models_lack_are_told() -> None:
    models = {
        "V1beta1InferenceService": {"spec": "V1beta1Spec", "metadata": "V1ObjectMeta"},
        "V1beta1Spec": {"minReplicas": "int", "formats": "list[V1beta1Format]", "labels": "dict(str, str)"},
        "V1beta1Format": {"name": "str"},
    }

    def told(**spec: Any) -> list[str]:
        document = {"metadata": {"name": "a"}, "spec": spec}
        return kserve_models.errors_of(document, "V1beta1InferenceService", models, "x")

    assert told(minReplicas=1, formats=[{"name": "a"}], labels={"a": "b"}) == []
    assert told(minReplica=1) == ["x.spec.minReplica: no such field in V1beta1Spec"]
    assert told(minReplicas=True) == ["x.spec.minReplicas: True is not of type int"]
    assert told(formats={"name": "a"}) == ["x.spec.formats: not a list"]
    assert told(formats=[{"nme": "a"}]) == ["x.spec.formats[0].nme: no such field in V1beta1Format"]
    assert told(labels={"a": 1}) == ["x.spec.labels.a: 1 is not of type str"]
