"""Unpacking archives that nobody vouches for, and Argos Translate packages, which come in them."""

import json
import os
import shutil
import stat
import struct
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_edits import load, refusal
from ctranslate2_files import tiny_variables, write_directory
from marian_text_files import GOLDEN
from seqserve.search_defaults import SearchDefaults
from seqserve_export.description import describe
from seqserve_export.errors import ExportError
from seqserve_export.families.archive import Limits, unpack_zip
from seqserve_export.families.ctranslate2_spec import SIDES
from seqserve_export.piece_files import PieceFiles
from seqserve_export.word_files import WordFiles
from seqserve_server.tokenizer.marian import MarianTokenizer


def write_zip(path: Path, entries: dict[str, bytes], **attributes: Any) -> Path:
    """An archive with names as given, whatever they are; ``attributes`` are set on every entry."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.writestr(entry, content)
    return path


def unpack(archive: Path, limits: Limits | None = None) -> dict[str, bytes]:
    """What comes out, wherever below the archive's own directory it lies."""
    target = archive.parent / "out"
    target.mkdir()
    unpack_zip(archive, target, lambda _: True, limits)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def refused(archive: Path, limits: Limits | None = None) -> str:
    before = {path for path in archive.parent.rglob("*") if "out" not in path.parts}
    with pytest.raises(ExportError) as caught:
        unpack(archive, limits)
    after = {path for path in archive.parent.rglob("*") if "out" not in path.parts}
    assert after == before, "something was written beside the directory"
    message = str(caught.value)
    assert "\n" not in message
    assert str(archive) in message
    return message


def test_files_and_directories_come_out_and_only_the_wanted(tmp_path: Path) -> None:
    entries = {"a/": b"", "a/b.txt": b"text", "c": b"\0" * 10}
    archive = write_zip(tmp_path / "a.zip", entries)
    assert unpack(archive) == {"a/b.txt": b"text", "c": b"\0" * 10}
    (tmp_path / "some").mkdir()
    unpack_zip(archive, tmp_path / "some", lambda path: path == PurePosixPath("c"))
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["c"]


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "..", "a/..", "\\\\host\\x", "..\\x", "C:/x", "c:x", "//host/share/x"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    assert "leads out of the archive's directory" in refused(write_zip(tmp_path / "a.zip", {"ok": b"1", name: b"2"}))


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J"])
def test_names_that_would_garble_a_message_are_refused(tmp_path: Path, name: str) -> None:
    assert "unprintable" in refused(write_zip(tmp_path / "a.zip", {name: b"1"}))


@pytest.mark.parametrize(
    ("mode", "message"),
    [(stat.S_IFLNK, "is a symbolic link"), (stat.S_IFIFO, "neither a file nor a directory"),
     (stat.S_IFCHR, "neither a file nor a directory")],
)
def test_only_files_and_directories_are_unpacked(tmp_path: Path, mode: int, message: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {"link": b"/etc/passwd"}, external_attr=(mode | 0o777) << 16)
    assert message in refused(archive)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a": b"1", "b": b"2"})
    archive.write_bytes(archive.read_bytes().replace(b"b", b"a"))
    assert "'a' is there twice" in refused(archive)


def test_a_file_where_a_directory_has_to_be_is_refused(tmp_path: Path) -> None:
    assert "cannot be unpacked" in refused(write_zip(tmp_path / "a.zip", {"a": b"1", "a/b": b"2"}))


def test_numbers_and_sizes_are_limited(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {f"f{index}": os.urandom(100) for index in range(20)})
    assert "20 entries, 19 at most" in refused(archive, Limits(files=19))
    (tmp_path / "out").rmdir()
    assert "unpacks to more than is allowed: 'f9' passes" in refused(archive, Limits(size=999))
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 999
    long = write_zip(tmp_path / "b.zip", {"n" * 513: b""})
    (tmp_path / "out").rename(tmp_path / "out-1")
    assert "a name of 513 characters, 512 at most" in refused(long)


def test_a_bomb_stops_at_the_ratio(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"bomb": b"\0" * (8 << 20)})
    assert archive.stat().st_size < 10_000
    assert "compression ratio" in refused(archive, Limits(free=1 << 20))
    assert (tmp_path / "out" / "bomb").stat().st_size <= 1 << 20


def test_a_size_in_the_header_is_no_evidence(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"bomb": b"\0" * (4 << 20)})
    content = archive.read_bytes().replace(struct.pack("<I", 4 << 20), struct.pack("<I", 10))
    archive.write_bytes(content)
    assert "not a readable zip archive" in refused(archive, Limits(size=1 << 20))
    assert (tmp_path / "out" / "bomb").stat().st_size <= 1 << 20


def test_damaged_encrypted_and_oddly_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\3\4 not really")
    assert "not a readable zip archive" in refused(path)
    (tmp_path / "out").rmdir()
    write_zip(path, {"a": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    assert "not a readable zip archive" in refused(path)
    (tmp_path / "out").rename(tmp_path / "out-1")
    write_zip(path, {"a": b"1"}, compress_type=zipfile.ZIP_LZMA)
    assert "'a': compression 14 is not supported" in refused(path)
    (tmp_path / "out").rmdir()
    write_zip(path, {"a": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "'a' is encrypted" in refused(path)


# --- Argos Translate packages

METADATA = {"package_version": "1.5", "argos_version": "1.5", "from_code": "en", "to_code": "de"}


def write_package(root: Path, **metadata: Any) -> None:
    write_directory(root / "model", config={"add_source_eos": True})
    (root / "metadata.json").write_text(json.dumps({**METADATA, "from_name": "English", **metadata}))
    shutil.copyfile(GOLDEN / "source.spm", root / "sentencepiece.model")
    (root / "stanza").mkdir()
    (root / "stanza" / "big").write_bytes(b"\0" * 1000)


def zipped(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root.parent))
    return archive


def test_a_package_is_read_from_its_archive_and_from_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path / "translate-en_de-1_5")
    archive = zipped(tmp_path / "translate-en_de-1_5", tmp_path / "en_de.argosmodel")
    workplace = tmp_path / "temporary"
    workplace.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))
    checkpoints = [load(archive), load(tmp_path / "translate-en_de-1_5"), load(archive, "argos")]
    assert not list(workplace.glob("seqserve-*")), "what was unpacked is gone"
    for checkpoint in checkpoints:
        assert checkpoint.family == "argos"
        assert checkpoint.source_suffix == (2,)
        assert checkpoint.search == SearchDefaults(
            beam_size=4, length_penalty=0.2, patience=1.0, stopping="patience", renormalise=True
        )
        assert checkpoint.provenance["argos"] == METADATA
        assert checkpoint.provenance["ctranslate2"]["sentencepiece"] == ["sentencepiece.model"]
        files = checkpoint.provenance["source_files"]
        assert files.keys() >= {"model.bin", "metadata.json", "sentencepiece.model", "source_vocabulary.json"}
    assert "en_de.argosmodel" in checkpoints[0].provenance["source_files"]
    for name, tensor in checkpoints[0].model.state_dict().items():
        assert torch.equal(tensor, checkpoints[1].model.state_dict()[name]), name


def test_a_prefix_that_argos_forces_is_part_of_the_prompt(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    (tmp_path / "package" / "sentencepiece.model").unlink()
    (tmp_path / "package" / "bpe.model").write_bytes(b"another method's merges")
    plain = load(tmp_path / "package")
    assert isinstance(plain.tokenizer, WordFiles), "no SentencePiece model: tokens between spaces"
    assert any("bpe.model is not applied" in note for note in plain.notes)
    entry = plain.tokenizer.target[9]
    write_package(tmp_path / "forced", target_prefix=entry)
    start = plain.model.config.decoder_start_id
    assert (plain.decoder_prompt, load(tmp_path / "forced").decoder_prompt) == ((start,), (start, 9))
    write_package(tmp_path / "wrong", target_prefix="__xx__")
    assert "target_prefix '__xx__' is no token of the target vocabulary" in refusal(tmp_path / "wrong")


def test_a_forced_prefix_leaves_room_for_one_token_less(tmp_path: Path) -> None:
    positions = {f"{side}/position_encodings/encodings": np.zeros((20, 16), np.float32) for side in SIDES}
    for name, prefix in (("plain", ""), ("forced", "t3")):
        write_package(tmp_path / name, target_prefix=prefix)
        write_directory(tmp_path / name / "model", tiny_variables() | positions, config={"add_source_eos": True})
    plain, forced = load(tmp_path / "plain"), load(tmp_path / "forced")
    assert (plain.default_max_new_tokens, forced.default_max_new_tokens) == (20, 19)
    assert describe(forced, "argos", "fp32").max_new_tokens == 19


def test_a_package_with_a_sentencepiece_model_takes_text(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    archive = zipped(tmp_path / "package", tmp_path / "a.argosmodel")
    tokenizer = load(archive).tokenizer
    assert isinstance(tokenizer, PieceFiles)
    tokenizer.write(tmp_path)
    served = MarianTokenizer.read(tmp_path, None)
    text = "A man rides a horse."
    assert served.encode(text) == tokenizer.encoder()(text)
    unknown = tokenizer.source.index("<unk>")
    known = [token_id for token_id in served.encode(text) if token_id != unknown]
    assert all(served.tokens([token_id]) == [tokenizer.target[token_id]] for token_id in known)


def test_what_is_no_package_is_refused_by_the_name_that_was_given(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.argosmodel", {"readme": b"1"})
    assert refusal(archive).endswith(
        "a.argosmodel: not a package: no metadata.json with a directory model beside it"
    )
    write_package(tmp_path / "package")
    (tmp_path / "package" / "model" / "model.bin").write_bytes(b"\6\0\0\0")
    message = refusal(zipped(tmp_path / "package", archive))
    assert message.startswith(f"{archive}/package/model/model.bin: truncated or damaged")
    archive.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "a Git LFS pointer" in refusal(archive)
    (tmp_path / "other.zip").write_bytes(b"PK")
    assert "a file that no family reads" in refusal(tmp_path / "other.zip")


def test_a_package_with_an_entry_that_leads_out_writes_nothing(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.argosmodel", {"p/metadata.json": b"{}", "p/../../../x": b"1"})
    assert "leads out of the archive's directory" in refusal(archive)
