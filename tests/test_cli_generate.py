"""``seqserve generate``: lines in, lines out, in order and at once; every way it can end."""

import io
import json
import signal
import sys

import pytest

from cli_process import start
from fake_server import FakeServer
from seqserve.v1 import seq2seq_pb2
from seqserve_cli import exits
from seqserve_cli.main import main


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_arguments_become_lines_in_order(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "two dogs", " ", "a"]) == 0
    assert capsys.readouterr() == ("TWO DOGS\n\nA\n", "")


def test_stdin_goes_through_in_batches_with_blank_lines_and_order_kept(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["" if number % 7 == 3 else f"line {number}" for number in range(100)]
    give_stdin(monkeypatch, "\n".join(lines).encode())
    assert main(["generate", "--target", server.target]) == 0
    assert capsys.readouterr().out == "".join(f"{line.upper()}\n" for line in lines)
    sizes = [len(call.inputs) for call in server.servicer.calls]
    assert sum(sizes) == sum(bool(line) for line in lines)
    assert max(sizes) <= 8  # the server's limit, below the command's own
    assert "" not in {source.text for call in server.servicer.calls for source in call.inputs}


def test_a_line_is_answered_before_the_next_one_is_written(server: FakeServer) -> None:
    process = start("generate", "--target", server.target)
    for word in ("one", "", "two"):
        process.stdin.write(word + "\r\n")
        process.stdin.flush()
        assert process.stdout.readline() == word.upper() + "\n"
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_tokens_and_ids_come_back_in_the_form_they_went(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--stream"]):
        assert main(["generate", "--target", server.target, "--tokens", "▁a ▁man", *extra]) == 0
        assert capsys.readouterr().out == "▁A ▁MAN\n"
        assert main(["generate", "--target", server.target, "--token-ids", "5 17", "", *extra]) == 0
        assert capsys.readouterr().out == "6 18\n\n"
    assert main(["generate", "--target", server.target, "--token-ids", "5 17", "6 x"]) == 1
    assert "line 2: token ids are whole numbers" in capsys.readouterr().err


def test_json_has_one_object_per_line(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--json", "--max-new-tokens", "1", "two dogs", ""]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], first["finish_reason"]) == ("TWO", "length")
    assert first["hypotheses"] == [{"text": "TWO", "tokens": ["TWO"], "token_ids": [3], "score": -2.0}]
    assert first["timing"]["total"] == 1.75
    assert second == {"text": "", "hypotheses": []}


def test_several_answers_to_a_text_are_an_n_best_list(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    several = ["generate", "--target", server.target, "--num-hypotheses", "3"]
    assert main([*several, "two dogs play", "", "a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 ||| TWO DOGS PLAY ||| -3", "0 ||| TWO DOGS ||| -2", "0 ||| TWO ||| -1",
        "1 |||  ||| 0",
        "2 ||| A ||| -1", "2 |||  ||| 0",
    ]
    assert main([*several, "--token-ids", "5 17"]) == 0
    assert capsys.readouterr().out.splitlines() == ["0 ||| 6 18 ||| -2", "0 ||| 6 ||| -1", "0 |||  ||| 0"]
    assert main([*several, "--tokens", "▁a ▁man"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["0 ||| ▁A ▁MAN ||| -2", "0 ||| ▁A ||| -1"]


def test_an_n_best_list_numbers_texts_across_calls(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, "".join(f"line {number}\n" for number in range(30)).encode())
    assert main(["generate", "--target", server.target, "--num-hypotheses", "2"]) == 0
    fields = [line.split(" ||| ") for line in capsys.readouterr().out.splitlines()]
    assert [(int(number), text) for number, text, _ in fields] == [
        (number, text) for number in range(30) for text in (f"LINE {number}", "LINE")
    ]


def test_json_and_one_answer_are_as_ever_with_several_hypotheses(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--target", server.target, "--num-hypotheses", "1", "two dogs"]) == 0
    assert capsys.readouterr().out == "TWO DOGS\n"
    several = ["generate", "--target", server.target, "--num-hypotheses", "2", "--json", "two dogs"]
    assert main(several) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["text"], [each["text"] for each in record["hypotheses"]]) == ("TWO DOGS", ["TWO DOGS", "TWO"])
    assert main([*several, "--stream"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["text"] for each in last["result"]["hypotheses"]] == ["TWO DOGS", "TWO"]


def test_several_answers_cannot_be_streamed_as_text(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--num-hypotheses", "2", "--stream", "two dogs"]) == exits.USAGE
    assert "for several add --json" in capsys.readouterr().err
    assert server.servicer.calls == []


def test_search_options_reach_the_server(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--beam-size", "4", "--length-penalty", "-0.5", "--patience", "1.5", "--stopping", "patience"]
    for extra in ([], ["--stream"]):
        assert main(["generate", "--target", server.target, *search, *extra, "a"]) == 0
        assert server.servicer.calls[-1].options == seq2seq_pb2.GenerationOptions(
            beam_size=4, length_penalty=-0.5, patience=1.5, stopping=seq2seq_pb2.STOPPING_PATIENCE
        )
    assert main(["generate", "--target", server.target, "a"]) == 0
    assert server.servicer.calls[-1].options == seq2seq_pb2.GenerationOptions()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--stopping", "early", "a"])
    assert caught.value.code == exits.USAGE
    assert "choose from" in capsys.readouterr().err


def test_stream_prints_what_the_unary_call_prints(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--stream", "two dogs", "", "a"]) == 0
    assert capsys.readouterr().out == "TWO DOGS\n\nA\n"
    assert main(["generate", "--target", server.target, "--stream", "--json", "two dogs"]) == 0
    chunks = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [chunk["text"] for chunk in chunks] == ["TWO", " DOGS", ""]
    assert [chunk["token_ids"] for chunk in chunks] == [[3], [4], []]
    assert chunks[-1]["result"]["text"] == "TWO DOGS"


def test_a_refused_line_is_named_and_the_lines_before_its_batch_are_kept(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*["fine"] * 8, "", "fine", "long text", "fine"]
    give_stdin(monkeypatch, "\n".join(lines).encode())
    assert main(["generate", "--target", server.target]) == 1
    captured = capsys.readouterr()
    assert captured.out == "FINE\n" * 8
    assert captured.err == ("seqserve: line 11: INVALID_ARGUMENT: inputs[1]: 900 tokens are over the limit of 512\n")


def test_a_refused_line_is_named_while_streaming_too(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--stream", "fine", "long text"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "FINE\n"
    assert captured.err == "seqserve: line 2: INVALID_ARGUMENT: input: 900 tokens are over the limit of 512\n"


def test_input_that_is_not_utf8_is_named(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"fine\n\xff\xfe\n")
    assert main(["generate", "--target", server.target, "-"]) == 1
    assert "line 2 is not UTF-8" in capsys.readouterr().err


def test_an_endless_line_is_refused(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"x" * 5_000_000)
    assert main(["generate", "--target", server.target]) == 1
    assert "line 1 is longer than" in capsys.readouterr().err


def test_no_input_gives_no_output(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"")
    assert main(["generate", "--target", server.target]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_ends_the_command_quietly(server: FakeServer) -> None:
    process = start("generate", "--target", server.target)
    process.stdin.write("a\n")
    process.stdin.flush()
    assert process.stdout.readline() == "A\n"
    process.stdout.close()
    process.stdin.write("b\nc\n")
    process.stdin.close()
    assert process.wait(timeout=60) == exits.BROKEN_PIPE
    assert process.stderr.read() == ""
    process.stderr.close()


def test_an_interrupt_ends_the_command_quietly_while_it_waits_for_a_line(server: FakeServer) -> None:
    process = start("generate", "--target", server.target)
    process.stdin.write("a\n")
    process.stdin.flush()
    assert process.stdout.readline() == "A\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == exits.INTERRUPTED
    assert process.communicate() == ("", "")
