"""``seqserve generate --document``: files in, files out."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from cli_process import start
from fake_server import FakeServer, refuse
from seqserve.v1 import seq2seq_pb2
from seqserve_cli import exits
from seqserve_cli.documents import BLOCK_BYTES, Bar, blocks_of_whole_lines
from seqserve_cli.main import main
from seqserve_server.local import LocalModel
from seqserve_server.served_model import EngineLimits, ServedModel
from serving import make_tokenizer
from test_documents import CAPITALS, TEXT


def command(server: FakeServer, *words: str) -> list[str]:
    return ["generate", "--target", server.target, "--document", *words]


def test_a_file_becomes_a_file(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "english.txt", tmp_path / "capitals.txt"
    source.write_bytes(TEXT.encode())
    assert main(command(server, str(source), "--output", str(target), "--source-language", "en")) == 0
    assert target.read_bytes().decode() == CAPITALS
    assert capsys.readouterr() == ("", "")
    assert {call.options.source_language for call in server.servicer.calls} == {"en"}
    assert main(command(server, str(source), "--language", "de")) == 0
    assert capsys.readouterr().out == CAPITALS
    assert not server.servicer.calls[-1].options.HasField("source_language")  # not every model takes one


def test_long_files_keep_their_order_across_blocks(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["".join(f"Line {number}. Of file {file}!\n\n" for number in range(3000)) for file in range(2)]
    paths = [tmp_path / f"{file}.txt" for file in range(2)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    assert main(command(server, *map(str, paths))) == 0
    assert capsys.readouterr().out == "".join(texts).upper()
    assert len(texts[0]) > 2 * BLOCK_BYTES


def test_stdin_is_translated_as_it_arrives(server: FakeServer) -> None:
    process = start(*command(server))
    for line, answer in (("One. Two.\n", "ONE. TWO.\n"), ("\n", "\n"), ("  Three\n", "  THREE\n")):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == answer
    assert process.communicate("the end") == ("THE END", "")
    assert process.returncode == 0


def test_json_maps_sentences_of_the_whole_file(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Über uns.  Ja!\n***\n" * 2000
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    assert main(command(server, "--json", str(path))) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(command(server, str(path))) == 0
    whole = capsys.readouterr().out
    assert len(records) == 6000
    for record in records:
        assert text[record["source_start"] : record["source_end"]] == record["source"]
        assert whole[record["target_start"] : record["target_end"]] == record["target"]
    assert records[-3:] == [
        {"file": str(path), "source_start": 37981, "source_end": 37990, "source": "Über uns.", "target_start": 37981,
         "target_end": 37990, "target": "ÜBER UNS.", "note": "", "score": -2.0},
        {"file": str(path), "source_start": 37992, "source_end": 37995, "source": "Ja!", "target_start": 37992,
         "target_end": 37995, "target": "JA!", "note": "", "score": -1.0},
        {"file": str(path), "source_start": 37996, "source_end": 37999, "source": "***", "target_start": 37996,
         "target_end": 37999, "target": "***", "note": "copied", "score": None},
    ]


def test_offsets_begin_anew_with_each_file(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("Some words.\n", encoding="utf-8")
    assert main(command(server, "--json", *map(str, paths))) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["file"], record["source_start"], record["target_start"]) for record in records] == [
        (str(paths[0]), 0, 0), (str(paths[1]), 0, 0),
    ]


def test_a_refused_sentence_is_named_with_its_file(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_six(request: seq2seq_pb2.GenerateRequest, context: grpc.ServicerContext) -> None:
        for place, source in enumerate(request.inputs):
            if "six" in source.text:
                field = f"inputs[{place}].text"
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a bad word", "INVALID_FIELD", field=field)

    server.servicer.before = refuse_six
    path = tmp_path / "text.txt"
    path.write_text("Fine.\n" * 5000 + "six\n", encoding="utf-8")
    assert main(command(server, str(path))) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        f"seqserve: {path}: INVALID_ARGUMENT: characters 30000 to 30003, 'six': a bad word\n"
    )
    assert captured.out
    assert set(captured.out.splitlines()) == {"FINE."}


def test_what_cannot_be_read_or_written_ends_it(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, latin = tmp_path / "text.txt", tmp_path / "latin.txt"
    path.write_text("Fine.\n", encoding="utf-8")
    latin.write_bytes(b"Fine.\n\xff\n")
    for words, code, message in (
        ([str(tmp_path / "none.txt")], 1, "cannot read"),
        ([str(latin)], 1, "latin.txt is not UTF-8"),
        ([str(path), "--output", str(tmp_path / "no" / "where.txt")], 1, "cannot write"),
        ([str(path), "--output", str(path)], exits.USAGE, "is read, too"),
        ([str(path), "--stream"], exits.USAGE, "--stream is not for --document"),
        ([str(path), "--token-ids"], exits.USAGE, "--token-ids is not for --document"),
        ([str(path), "--num-hypotheses", "2"], exits.USAGE, "a document has one answer"),
    ):
        assert main(command(server, *words)) == code
        assert message in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "Fine.\n"
    assert main(["generate", "--output", "x", "a"]) == exits.USAGE
    assert "--split, --language and --output are for --document" in capsys.readouterr().err


def test_an_endless_line_is_refused(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 5_000_000), encoding="utf-8"))
    assert main(command(server)) == 1
    assert "stdin has a line of more than" in capsys.readouterr().err


def test_no_input_gives_no_output(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
    assert main(command(server)) == 0
    assert capsys.readouterr() == ("", "")


def test_blocks_are_whole_lines_and_all_bytes() -> None:
    data = b"".join(b"x" * (number % 97) + b"\r\n" for number in range(3000)) + b"the end"
    blocks = list(blocks_of_whole_lines(io.BytesIO(data), "-"))
    assert b"".join(blocks) == data
    assert len(blocks) > 5
    assert all(block.endswith(b"\n") for block in blocks[:-1])


def test_the_bar_says_how_far_it_is() -> None:
    assert Bar(200).line(100) == "[" + "#" * 15 + "." * 15 + "]  50%  0 sentences"
    assert Bar(None).line(100) == "0 sentences"


def test_a_bundle_translates_without_a_server_and_cuts_what_is_too_long(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalModel(replace(ServedModel.open(tiny_bundle, EngineLimits()), tokenizer=make_tokenizer()))
    monkeypatch.setattr(LocalModel, "open", lambda directory: local)
    path = tmp_path / "text.txt"
    words = local.description.max_source_length + 20
    path.write_text("  a b.\n\n***\n" + "c d " * words + "\n", encoding="utf-8")
    command = ["generate", "--model", str(tiny_bundle), "--document", "--max-new-tokens", "3", str(path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.split("\n")
    assert (lines[0][:2], lines[1:3], len(lines)) == ("  ", ["", "***"], 5)
    assert main([*command, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["note"] for record in records] == ["", "copied", *["cut"] * (len(records) - 2)]
    assert len(records) >= 4
    assert " ".join(record["source"] for record in records[2:]).split() == ["c", "d"] * words
