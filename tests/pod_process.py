"""A container of a rendered manifest as a process, without a container engine.

From the manifest come arguments, environment, user, volumes, ports and whether the root file system is read-only; from
the Dockerfile its own environment. The process is number 1 of its own PID namespace, has its own network and mounts, no
capability, and sees no file but the machine's /usr and /etc, its Python and the volumes. What is missing of a real one:
the image itself (Python and packages are this machine's), the seccomp profile and the limits of CPU and memory.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ADDRESS = "192.0.2.10"  # of the documentation's network: nobody has it
NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork")
UNITS = {"Mi": 2**20, "Gi": 2**30}


def why_not() -> str | None:
    """Why no container can be played here; None where one can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "changing the user and mounting need root"
    try:
        done = subprocess.run([*NAMESPACES, "setpriv", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return None if done.returncode == 0 else f"no new namespaces: {done.stderr.strip()}"


def image_environment(dockerfile: str) -> dict[str, str]:
    """ENV of the stage that both targets share."""
    (block,) = re.findall(r"^ENV (PATH=(?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)
    pairs = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())
    return {**pairs, "PATH": "/usr/local/bin:/usr/bin:/bin"}  # the image's own programs are not here


def container_environment(container: dict[str, Any]) -> dict[str, str]:
    """``env`` as the kubelet resolves it: values, and limits of the container."""
    environment = {}
    for variable in container.get("env", []):
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
        else:
            limit = variable["valueFrom"]["resourceFieldRef"]["resource"]
            assert limit == "limits.cpu"
            environment[variable["name"]] = container["resources"]["limits"]["cpu"]
    return environment


def python_folders() -> list[str]:
    """All that this interpreter imports from, none twice and none inside another."""
    folders = {sys.prefix, sys.base_prefix, *(each for each in sys.path if Path(each).exists())}
    real = {str(Path(each)) for each in folders} | {str(Path(each).resolve()) for each in folders}
    inner = {each for each in real for other in real if each != other and Path(each).is_relative_to(other)}
    return sorted(real - inner)


class PodProcess:
    """A context manager; the process is killed if the test did not end it."""

    def __init__(
        self, pod: dict[str, Any], dockerfile: str, model: Path, workspace: Path, *,
        command: list[str] | None = None, changes: dict[str, str] | None = None,
    ) -> None:
        """``command`` runs instead of the server; ``changes`` are more environment."""
        (container,) = pod["spec"]["containers"]
        self.container, self.log = container, workspace / "stderr"
        both = {**pod["spec"]["securityContext"], **container["securityContext"]}
        root = workspace / "root"
        root.mkdir()
        paths = os.pathsep.join(each for each in sys.path if each)
        self._spec = {
            "root": str(root), "address": ADDRESS, "user": both["runAsUser"], "group": both["runAsGroup"],
            "fs_group": both["fsGroup"], "read_only": both["readOnlyRootFilesystem"],
            "binds": [
                *((each, each) for each in ("/usr", "/etc", *python_folders())),
                (str(model), _mount(container, "model")),
            ],
            "tmpfs": [
                {"path": _mount(container, volume["name"]), "bytes": _bytes(volume["emptyDir"]["sizeLimit"])}
                for volume in pod["spec"]["volumes"] if "emptyDir" in volume
            ],
            "command": command or [sys.executable, "-m", "seqserve_cli", *container["args"]],
            "environment": {
                **image_environment(dockerfile), "PYTHONPATH": paths, **container_environment(container),
                **(changes or {}),
            },
        }
        self._file = workspace / "container.json"

    def __enter__(self) -> "PodProcess":
        self._file.write_text(json.dumps(self._spec), encoding="utf-8")
        with self.log.open("w") as log:
            self._parent = subprocess.Popen(
                [*NAMESPACES, sys.executable, str(HERE / "pod_root.py"), str(self._file)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )
        self._client: subprocess.Popen[str] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        # The container first: it has another user than its parent, so the kernel would not let it die with that.
        while self._parent.poll() is None:
            for child in self._children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        self._parent.communicate()
        if self._client is not None:
            self._client.kill()
            self._client.communicate()

    @property
    def pid(self) -> int:
        """Of the container's process, as seen from here."""
        while not (found := self._children()):
            assert self._parent.poll() is None, self.log.read_text()
            time.sleep(0.01)
        return found[0]

    def _children(self) -> list[int]:
        try:
            text = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [int(each) for each in text.split()]

    def line(self) -> str:
        """The next line of its stdout; empty when it has ended."""
        assert self._parent.stdout is not None
        return str(self._parent.stdout.readline())

    def status(self) -> dict[str, str]:
        """What the kernel says of the process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def order(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have something done from inside the pod's network; see ``pod_client``."""
        if self._client is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
            self._client = subprocess.Popen(
                ["nsenter", f"--target={self.pid}", "--net", sys.executable, str(HERE / "pod_client.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps([name, arguments]) + "\n")
        self._client.stdin.flush()
        answer: dict[str, Any] = json.loads(self._client.stdout.readline())
        return answer

    def probe(self, name: str, timeout: float | None = None) -> str:
        """One probe of the manifest, by the pod's address, as the kubelet makes it."""
        probe = self.container[f"{name}Probe"]
        seconds = timeout or probe.get("timeoutSeconds", 1)
        target = f"{ADDRESS}:{probe['grpc']['port']}"
        return str(self.order("probe", target=target, service=probe["grpc"]["service"], timeout=seconds)["status"])

    def terminate(self) -> None:
        """What the kubelet does after preStop."""
        os.kill(self.pid, signal.SIGTERM)

    def exit_code(self, within: float) -> int:
        """Wait for the end, at most so many seconds."""
        return self._parent.wait(within)


def _mount(container: dict[str, Any], name: str) -> str:
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == name)
    return str(mount["mountPath"])


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]
