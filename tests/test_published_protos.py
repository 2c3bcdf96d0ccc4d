"""What was published stays: callers who were compiled against an older proto go on being understood."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = "proto/seqserve/v1/seq2seq.proto"
THEIRS = "server/seqserve_server/open_inference/open_inference.proto"


def broken(directory: Path, file: str = OURS, old: str = "", new: str = "") -> list[str]:
    """What ``make protos-check`` would say of the protos, one of them with a text replaced."""
    for name in ("buf.yaml", "proto/published.txtpb", OURS, THEIRS):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    text = (directory / file).read_text(encoding="utf-8")
    assert old in text
    (directory / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    program = str(Path(sysconfig.get_path("scripts")) / "buf")
    subprocess.run([program, "build", "--output", "now.binpb"], cwd=directory, check=True)
    done = subprocess.run(
        [program, "breaking", "now.binpb", "--against", "proto/published.txtpb"], cwd=directory, capture_output=True,
        text=True, check=False,
    )
    assert (done.returncode != 0) == bool(done.stdout), done
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_the_protos_break_nothing_that_was_published(tmp_path: Path) -> None:
    assert broken(tmp_path) == []


def test_a_field_that_is_new_breaks_nothing(tmp_path: Path) -> None:
    new = "message TokenIds {\n  // How many.\n  int32 count = 900;\n"
    assert broken(tmp_path, old="message TokenIds {\n", new=new) == []


@pytest.mark.parametrize(("file", "old", "new", "told"), [
    (OURS, "  repeated int32 ids = 1;\n", "", 'field "1" with name "ids" on message "TokenIds" was deleted'),
    (OURS, "repeated int32 ids = 1;", "repeated int32 ids = 2;", 'field "1" with name "ids"'),
    (OURS, "repeated int32 ids = 1;", "repeated int64 ids = 1;", 'from "int32" to "int64"'),
    (OURS, "repeated int32 ids = 1;", "repeated int32 numbers = 1;", 'name from "ids" to "numbers"'),
    (OURS, "rpc Detokenize(", "rpc Untokenize(", 'RPC "Detokenize"'),
    (THEIRS, "rpc ServerLive(", "rpc ServerLives(", 'RPC "ServerLive"'),
], ids=["removed", "renumbered", "retyped", "renamed", "method", "the other protocol's"])
def test_what_would_break_callers_is_found(tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    found = broken(tmp_path, file, old, new)
    assert any(told in line for line in found), found
