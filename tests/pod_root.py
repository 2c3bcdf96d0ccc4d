"""Becomes a container's process: ``pod_process`` starts it in new namespaces, with a JSON file that says what to run.

Makes a root file system of binds that nobody can write to, gives the network namespace an address, drops to the user
and becomes the command. It runs with the standard library alone, before any of the packages under test.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
IFF_UP = 1
DEVICES = ("null", "zero", "full", "random", "urandom")


def mount(*arguments: str) -> None:
    """Call ``mount``; it says on stderr what it could not do."""
    subprocess.run(["mount", *arguments], check=True)


def bind(source: Path, target: Path, mode: str = "ro") -> None:
    """Show a folder or file at another place."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", str(source), str(target))
    mount("-o", f"remount,bind,{mode}", str(target))


def bring_up(address: str) -> None:
    """The loopback device, and beside 127.0.0.1 the address that stands for the pod's."""
    with socket.socket() as control:
        for device, own in (("lo", "127.0.0.1"), ("lo:1", address)):
            name = device.encode()
            packed = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(own))
            fcntl.ioctl(control, SIOCSIFADDR, packed)
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", name, IFF_UP))


def build_root(root: Path, spec: dict[str, Any]) -> None:
    """``root`` as the container's /: the machine's programs, what Python needs, and the volumes of the manifest."""
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for name in ("bin", "sbin", "lib", "lib64"):
        outside = Path("/", name)
        if outside.is_symlink():
            (root / name).symlink_to(os.readlink(outside))
        elif outside.exists():
            bind(outside, root / name)
    (root / "proc").mkdir()
    mount("-t", "proc", "proc", str(root / "proc"))
    for name in DEVICES:
        bind(Path("/dev", name), root / "dev" / name, "rw")
    # Largest first: what lies under another mount has to come after it.
    for volume in sorted(spec["tmpfs"], key=lambda each: len(each["path"])):
        target = root / volume["path"].lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", f"mode=1777,size={volume['bytes']}", "tmpfs", str(target))
    for source, target in spec["binds"]:
        bind(Path(source), root / target.lstrip("/"))
    if spec["read_only"]:
        mount("-o", "remount,ro", str(root))


def main() -> None:
    """Never returns."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    bring_up(spec["address"])
    root = Path(spec["root"])
    build_root(root, spec)
    os.chroot(root)
    os.chdir("/")
    user, group = str(spec["user"]), str(spec["group"])
    setpriv = [
        "setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={spec['fs_group']}", "--no-new-privs",
        "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all",
    ]
    os.execvpe(setpriv[0], [*setpriv, *spec["command"]], spec["environment"])


if __name__ == "__main__":
    main()
