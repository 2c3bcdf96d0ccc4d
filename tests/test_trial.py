"""Trials of real bundles in a child process: what passes, what is found, and what a crash does to the one who waits."""

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqserve.bundle import BundleError, read_model
from seqserve.golden import GOLDEN_FILE, LEAD, Golden, read_golden
from seqserve.manifest import check_manifest, write_manifest
from seqserve_export.golden_cases import certain, write_cases
from seqserve_export.proof_sources import random_sources
from seqserve_server import trial, trial_process
from seqserve_server.local import LocalModel
from seqserve_server.trial import bound_this_process, try_bundle
from seqserve_server.trial_process import try_in_child


@pytest.fixture(scope="module")
def sound(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with golden inputs, as an export writes them."""
    bundle = tmp_path_factory.mktemp("golden") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    write_golden_of(bundle)
    write_manifest(bundle)
    return bundle


def write_golden_of(bundle: Path) -> None:
    model = read_model(bundle)
    write_cases(bundle, model, random_sources(model, 40), LocalModel.open)


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(sound, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def path_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


def change_golden(bundle: Path, change: Callable[[dict[str, list[float]]], None]) -> None:
    path = bundle / GOLDEN_FILE
    content = json.loads(path.read_text())
    change(content["cases"][-1])
    path.write_text(json.dumps(content))


async def refused(bundle: Path) -> str:
    """Why, with a manifest that fits the damage."""
    write_manifest(bundle)
    with pytest.raises(BundleError) as caught:
        await try_in_child(bundle, check_manifest(bundle))
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


async def test_a_sound_bundle_passes_and_says_what_was_tried(sound: Path) -> None:
    told = await try_in_child(sound, check_manifest(sound))
    assert told == "4 golden inputs, 8 tokens"


async def test_another_manifest_than_the_one_that_was_seen_is_no_pass(sound: Path) -> None:
    with pytest.raises(BundleError, match="changes while it is read"):
        await try_in_child(sound, "0123456789ab")


async def test_weights_of_another_model_are_found_by_its_answers(bundle: Path) -> None:
    path = bundle / "weights.data"
    data = bytearray(path.read_bytes())
    for place in range(0, len(data) // 2, 4):  # half of all numbers change their sign
        data[place + 3] ^= 0x80
    path.write_bytes(data)
    assert (await refused(bundle)).startswith("golden.json: cases[")


async def test_a_graph_that_is_none_is_refused(bundle: Path) -> None:
    (bundle / "decoder.onnx").write_bytes(b"\x00" * 1000)
    assert "decoder.onnx" in await refused(bundle)


def test_a_probability_that_is_off_is_found(bundle: Path) -> None:
    change_golden(bundle, lambda case: case["log_probs"].__setitem__(0, case["log_probs"][0] - 0.2))
    with LocalModel.open(bundle, threads=1, verify=False) as local, pytest.raises(BundleError, match="log-probability"):
        try_bundle(local)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case: case.pop("prompt"), "not an object of the lists"),
        (lambda case: case["source"].__setitem__(0, 200), r"source: not ids of 0\.\.199"),
        (lambda case: case["tokens"].__setitem__(0, True), "tokens: not ids"),
        (lambda case: case["tokens"].clear(), r"tokens: 0 ids are outside 1\.\.128"),
        (lambda case: case["log_probs"].append(0.0), "log_probs of"),
        (lambda case: case["log_probs"].__setitem__(0, "x"), "not finite numbers"),
    ],
)
def test_golden_inputs_that_are_malformed_are_refused(
    bundle: Path, change: Callable[[dict[str, list[float]]], None], told: str
) -> None:
    change_golden(bundle, change)
    with pytest.raises(BundleError, match=told):
        read_golden(bundle, read_model(bundle))


def test_a_bundle_without_golden_inputs_is_decoded_all_the_same(tiny_bundle: Path) -> None:
    with LocalModel.open(tiny_bundle, threads=1) as local:
        assert try_bundle(local) == (0, trial.SMOKE_TOKENS)


def test_golden_inputs_are_what_the_bundle_answers_and_it_is_sure_of(sound: Path) -> None:
    cases = read_golden(sound, read_model(sound))
    assert len(cases) == 4
    with LocalModel.open(sound, threads=1) as local:
        for case in cases:
            assert isinstance(case, Golden)
            logits = local.step_logits(case.source, case.tokens, case.prompt)
            assert certain(case.tokens, logits) == len(case.tokens)
            wrong = [case.tokens[0] + 1, *case.tokens[1:]]
            assert certain(wrong, logits) == 0
            logits[0] = 0.0
            logits[0, case.tokens[0]] = LEAD / 2
            assert certain(case.tokens, logits) == 0


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("kill -KILL $$", "ended by SIGKILL"),
        ("exit 3", "its trial ended with 3"),
        ("echo one >&2; echo why >&2; exit 1", "^why$"),
        ("exec sleep 600", "did not end within 1 s"),
    ],
)
async def test_a_child_that_dies_or_hangs_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\n{script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    if "sleep" in script:
        monkeypatch.setattr(trial_process, "WALL_SECONDS", 1.0)
    with pytest.raises(BundleError, match=told):
        await try_in_child(tmp_path, "0123456789ab")


def test_a_trial_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda what: (5, 5 if what == resource.RLIMIT_CPU else -1))
    monkeypatch.setattr(resource, "setrlimit", lambda what, most: given.update({what: most}))
    monkeypatch.setattr(os, "nice", lambda by: by)
    bound_this_process(1000)
    memory = trial.SPARE_BYTES + 1000 * trial.BYTES_PER_BYTE
    assert given == {
        resource.RLIMIT_AS: (memory, memory), resource.RLIMIT_CPU: (5, 5), resource.RLIMIT_CORE: (0, 0)
    }
