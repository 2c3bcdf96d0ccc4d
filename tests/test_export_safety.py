"""What an export must never do: end in a traceback, or leave half a bundle."""

import argparse
import errno
import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir
import pytest

from seqserve.bundle import BundleError
from seqserve_export import command, pipeline
from tiny_model import write_marian, write_native


def run(source: Path, out: Path, *arguments: str, open_bundle: Any = None) -> int:
    """The command as the command line runs it."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(source), str(out), *arguments]), open_bundle)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_native(tmp_path / "tiny")
    return tmp_path / "tiny"


def left(source: Path) -> list[str]:
    """What is in the directory beside the source, hidden entries too."""
    return sorted(path.name for path in source.parent.iterdir() if path != source)


def test_a_checkpoint_that_no_bundle_can_describe_is_one_line(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(*_: object) -> None:
        raise BundleError("model.json: source_suffix: id 9 is outside 0..8")

    monkeypatch.setattr(pipeline, "describe", describe)
    assert run(source, source.parent / "out") == 1
    told = f"{source}: cannot become a bundle: model.json: source_suffix: id 9 is outside 0..8"
    assert capsys.readouterr() == ("", f"seqserve export: {told}\n")
    assert left(source) == []


# --- the weights that were asked for


def digest(source: Path) -> str:
    return hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()


def stop(*_: object) -> None:
    raise BundleError("far enough")


def test_the_weights_that_were_asked_for_are_taken(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "describe", stop)
    for written in (digest(source), digest(source).upper()):
        assert run(source, source.parent / "out", "--sha256", written) == 1
        assert "far enough" in capsys.readouterr().err


@pytest.mark.parametrize("write", [write_native, write_marian])
def test_other_weights_are_refused_before_they_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Any
) -> None:
    source = tmp_path / "source"
    write(source)
    (source / "model.safetensors").write_bytes(b"not even weights")
    found, wanted = digest(source), "ab" * 32
    assert run(source, tmp_path / "out", "--sha256", wanted) == 1
    file = source / "model.safetensors"
    assert capsys.readouterr() == ("", f"seqserve export: {file}: SHA-256 {found} is not --sha256 {wanted}\n")
    assert left(source) == []


@pytest.mark.parametrize("written", ["", "abc", "g" * 64, "a" * 65])
def test_a_digest_that_is_none_is_refused(source: Path, capsys: pytest.CaptureFixture[str], written: str) -> None:
    assert run(source, source.parent / "out", "--sha256", written) == 1
    assert capsys.readouterr().err == f"seqserve export: --sha256 {written}: not 64 hexadecimal digits\n"


@pytest.mark.parametrize("arguments", [(), ("--sha256", "ab" * 32)])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_told_from_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: tuple[str, ...]
) -> None:
    source = tmp_path / "source"
    write_marian(source)
    (source / "model.safetensors").unlink()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 301228417\n"
    (source / name).write_text(pointer)
    assert run(source, tmp_path / "out", *arguments) == 1
    told = f"{source / name}: a Git LFS pointer of {len(pointer)} bytes, not the file; run `git lfs pull`"
    assert capsys.readouterr() == ("", f"seqserve export: {told}\n")


# --- a full disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel cuts writes off, as on a full disk; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def half(model: onnx_ir.Model, path: Path, **_: object) -> None:
    """The first part of a file, then no space."""
    with open(path, "wb") as file:
        file.write(onnx_ir.to_proto(model).SerializeToString()[:5000])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_is_cut_off_leaves_nothing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / "new" / "out"
    with files_of_at_most(20_000):
        assert run(source, out) == 1
    assert capsys.readouterr() == ("", f"seqserve export: {out}: cannot be written: File too large\n")
    assert left(source) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_midway_leaves_nothing_and_keeps_an_older_bundle(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], force: bool
) -> None:
    out, save, calls = source.parent / "out", onnx_ir.save, 0

    def full(model: onnx_ir.Model, path: Path, **settings: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the encoder is written, the decoder half
            half(model, path)
        save(model, path, **settings)

    if force:
        out.mkdir()
        (out / "manifest.json").write_text("older")
    monkeypatch.setattr(onnx_ir, "save", full)
    assert run(source, out, *["--force"] * force) == 1
    told = f"seqserve export: {out}: cannot be written: No space left on device\n"
    assert (calls, *capsys.readouterr()) == (2, "", told)
    assert left(source) == (["out"] if force else [])
    assert not force or (out / "manifest.json").read_text() == "older"
