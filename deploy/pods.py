"""Where a document describes pods, and what the restricted Pod Security Standard says of them."""

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]

# All that the standard lets a volume be, and `image`, which it does not name and no cluster counts as a host's.
VOLUME_KINDS = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image",
}
HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")


def pod_of(document: Document) -> Document | None:
    """The pod that a document is or makes, as a document of kind Pod; None for what makes none.

    KServe's runtime is the pod's larger part; the rest comes from its InferenceService.
    """
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Pod":
        return document
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        metadata, pod = spec["template"].get("metadata", {}), spec["template"]["spec"]
    elif kind == "ClusterServingRuntime":
        shared = ("containers", "volumes", "nodeSelector", "tolerations", "affinity", "imagePullSecrets")
        metadata, pod = {}, {name: spec[name] for name in shared if name in spec}
    else:
        return None
    named = {"name": document["metadata"]["name"], "namespace": document["metadata"].get("namespace", "default")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, **named}, "spec": pod}


def containers_of(pod: Document) -> Iterator[dict[str, Any]]:
    """Those that come first, too."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


def restricted_errors(pod: Document) -> list[str]:
    """What keeps a pod out of a namespace that enforces the restricted standard, and a root file system to write on.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/ is where the rules are from.
    """
    spec = pod["spec"]
    errors = [f"{field} is set" for field in HOST_FIELDS if spec.get(field)]
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        errors += [f"volume {volume['name']}: {kind} is not allowed" for kind in kinds - VOLUME_KINDS]
    for container in containers_of(pod):
        errors += [f"container {container['name']}: {error}" for error in _container_errors(container, spec)]
    return errors


def _container_errors(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**spec.get("securityContext", {}), **own}  # a container's own word wins
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not both.get("runAsUser"):
        yield "runAsUser is not a number above 0"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if own.get("privileged"):
        yield "privileged is set"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are not dropped"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"port {port['containerPort']}: hostPort is set"
