"""The real server process over a directory of real bundles: SIGHUP, links that are turned, damaged files."""

import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_process import start
from seqserve.bundle import MODEL_FILE, read_model
from seqserve.manifest import check_manifest, write_manifest
from seqserve_client import Client

READY = re.compile(r"ready grpc=(\S+) metrics=(\S+) models=([a-z,]+)\n")
ASKED: dict[str, Any] = {"token_ids": [[5, 17, 3]], "max_new_tokens": 12}


class Process:
    """A server over a directory, which holds links to versions that lie elsewhere."""

    def __init__(self, models: Path, *flags: str, **settings: Any) -> None:
        self.models = models
        self.process = start(
            "serve", str(models), "--port", "0", "--metrics-port", "0", "--threads", "1",
            "--cache-bytes", str(64 << 20), *flags, **settings,
        )

    def ready(self) -> re.Match[str]:
        """The parts of the line it prints."""
        found = READY.fullmatch(self.process.stdout.readline())
        assert found is not None, self.process.communicate()
        self.metrics = found[2]
        return found

    def turn(self, name: str, bundle: Path) -> None:
        """Let a model's link lead to another bundle."""
        fresh = self.models / f".{name}"
        fresh.symlink_to(bundle)
        fresh.replace(self.models / name)

    def reloads(self, result: str) -> int:
        """How many there were, as a scrape tells it."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=30) as page:
            found = re.search(rf'^seqserve_reloads_total{{result="{result}"}} (\d+)', page.read().decode(), re.M)
        assert found is not None
        return int(found[1])

    def reload(self, result: str) -> None:
        """Signal it, and wait until one more is told of."""
        wanted = self.reloads(result) + 1
        self.process.send_signal(signal.SIGHUP)
        while self.reloads(result) < wanted:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)


def variant(source: Path, target: Path, name: str, *, other_weights: bool = False) -> Path:
    """A copy under another name, or with other weights."""
    shutil.copytree(source, target)
    text = (target / MODEL_FILE).read_text().replace('"name": "tiny"', f'"name": "{name}"')
    (target / MODEL_FILE).write_text(text)
    if other_weights:
        data = bytearray((target / "weights.data").read_bytes())
        for place in range(3, len(data) // 2, 4):
            data[place] ^= 0x80
        (target / "weights.data").write_bytes(data)
    write_manifest(target)
    assert read_model(target).name == name
    return target


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> dict[str, Path]:
    kept = tmp_path / "kept"
    return {
        "de1": variant(tiny_bundle, kept / "de1", "de"), "fr": variant(tiny_bundle, kept / "fr", "fr"),
        "de2": variant(tiny_bundle, kept / "de2", "de", other_weights=True),
    }


@pytest.fixture
def server(bundles: dict[str, Path], tmp_path: Path) -> Iterator[Process]:
    models = tmp_path / "models"
    models.mkdir()
    for name, place in (("de", "de1"), ("fr", "fr")):
        (models / name).symlink_to(bundles[place])
    running = Process(models)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def damages(bundle: Path, keep: Path) -> Iterator[tuple[str, Path]]:
    """Copies with one thing wrong each."""
    for number, name in enumerate(("encoder.onnx", "decoder.onnx", "weights.data", "model.json", "manifest.json")):
        copy = keep / f"bad{number}"
        shutil.copytree(bundle, copy)
        data = bytearray((copy / name).read_bytes())
        if number % 2:
            data = data[: len(data) // 2]
        else:
            data[len(data) // 2] ^= 0x41
        (copy / name).write_bytes(data)
        yield name, copy
    copy = keep / "nonsense"  # what a manifest cannot tell
    shutil.copytree(bundle, copy)
    (copy / "decoder.onnx").write_bytes(b"\x08\x07" * 999)
    write_manifest(copy)
    yield "nonsense", copy


def test_versions_change_by_a_signal_and_damaged_ones_change_nothing(
    server: Process, bundles: dict[str, Path], tmp_path: Path
) -> None:
    ready = server.ready()
    assert ready[3] == "de,fr"
    with Client(ready[1], timeout=60) as client:
        answers = {name: client.generate(model=name, **ASKED)[0].hypotheses[0].token_ids for name in ("de", "fr")}
        assert answers["de"] == answers["fr"]
        for _, damaged in damages(bundles["de2"], tmp_path):
            server.turn("de", damaged)
            server.reload("refused")
            versions = {model.name: model.version for model in client.info().models}
            assert versions["de"] == check_manifest(bundles["de1"])
            assert client.generate(model="de", **ASKED)[0].hypotheses[0].token_ids == answers["de"]
        server.turn("de", bundles["de2"])
        server.reload("swapped")
        versions = {model.name: model.version for model in client.info().models}
        assert versions == {"de": check_manifest(bundles["de2"]), "fr": check_manifest(bundles["fr"])}
        assert client.generate(model="de", **ASKED)[0].hypotheses[0].token_ids != answers["de"]
        assert client.generate(model="fr", **ASKED)[0].hypotheses[0].token_ids == answers["fr"]
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    log = server.process.stderr.read()
    assert log.count("not taken, what is served stays as it is") == 6
    assert "takes the place of" in log
    assert "is no longer in memory" in log
    assert "Traceback" not in log
