"""A server that can write nowhere, /tmp included: it answers, takes new versions and ends as any other."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqserve_client import Client
from test_serve_models import ASKED, Process, bundles  # noqa: F401 - a fixture

PLACES = ("/", "/tmp", "/var/tmp", "/dev/shm", "/run")
# Becomes the rest of the command where nothing can be written to; devices and what the kernel shows of itself are left.
SEALED = r"""
set -e
mount --make-rprivate /
while read -r _ _ _ _ place _; do
    case "$place" in
        /proc|/proc/*|/sys|/sys/*|/dev|/dev/pts|/dev/mqueue) ;;
        *) mount -o remount,bind,ro "$place" ;;
    esac
done </proc/self/mountinfo
exec "$@"
"""
BEFORE = ("unshare", "--map-root-user", "--mount", "sh", "-c", SEALED, "sh")
WRITES = """
import pathlib, sys
for place in sys.argv[1:]:
    file = pathlib.Path(place, "seqserve-was-here")
    try:
        file.touch()
    except OSError:
        continue
    file.unlink()
    sys.exit(f"{place} can be written to")
"""


def why_not(directory: Path) -> str | None:
    """Why nothing can be made read-only here; None where it can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "mount namespaces are Linux's, by unshare"
    places = [*(place for place in PLACES if Path(place).is_dir()), os.getcwd(), str(Path.home()), str(directory)]
    done = subprocess.run(
        [*BEFORE, sys.executable, "-c", WRITES, *places], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"a mount namespace that is read-only: {done.stderr.strip()}"


def test_a_server_that_can_write_nowhere_serves_on(bundles: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    models = tmp_path / "models"
    models.mkdir()
    (models / "de").symlink_to(bundles["de1"])
    server = Process(models, before=BEFORE)
    try:
        with Client(server.ready()[1], timeout=60) as client:
            first = [client.generate(**ASKED)[0].hypotheses[0].token_ids for _ in range(20)]
            assert first == [first[0]] * 20
            assert list(client.stream(token_ids=ASKED["token_ids"][0], max_new_tokens=12))
            assert client.score(source_token_ids=[[5, 17, 3]], target_token_ids=[[6, 7]])
            server.turn("de", bundles["de2"])  # from outside, as what fills a volume does
            server.reload("swapped")
            assert client.generate(**ASKED)[0].hypotheses[0].token_ids != first[0]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.process.stderr.read()
    finally:
        server.process.kill()
        server.process.communicate()
