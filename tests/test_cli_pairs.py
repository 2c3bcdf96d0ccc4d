"""``seqserve score`` and ``seqserve align``: pairs in, lines or a drawing out, in order; every way they can end."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli_process import start
from fake_server import FakeServer
from seqserve.v1 import seq2seq_pb2
from seqserve_cli import attention_maps, exits, pairs
from seqserve_cli.main import main
from seqserve_client import ScoreResult
from test_cli_generate import give_stdin


def score(server: FakeServer, *arguments: str) -> int:
    return main(["score", "--target", server.target, *arguments])


def align(server: FakeServer, *arguments: str) -> int:
    return main(["align", "--target", server.target, *arguments])


def test_two_arguments_are_a_pair(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(server, "two dogs", "zwei hunde") == 0
    assert capsys.readouterr() == (f"{(-1 - 1.25 - 0.5) / 3:.6g}\n", "")
    assert score(server, "two dogs", "") == 0
    assert capsys.readouterr().out == "-0.5\n"
    assert score(server, "--length-penalty", "0", "--word-scores", "two dogs", "zwei hunde") == 0
    assert capsys.readouterr().out == "-2.75 ||| WordScores= -1 -1.25 -0.5\n"


def test_json_has_everything_but_the_alignment(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(server, "--json", "two dogs", "zwei") == 0
    assert json.loads(capsys.readouterr().out) == {
        "score": -0.75, "token_log_probs": [-1.0, -0.5], "token_ids": [4], "tokens": ["zwei"], "input_token_count": 3
    }


def test_stdin_goes_through_in_batches_with_blank_lines_and_order_kept(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["" if number % 7 == 3 else f"line {number}\t{'x' * number}" for number in range(100)]
    give_stdin(monkeypatch, "\n".join(lines).encode())
    assert score(server, "--length-penalty", "0") == 0
    expected = ["" if not line else f"{-number / 4 - 0.5:.6g}" for number, line in enumerate(lines)]
    expected[0] = "-0.5"
    assert capsys.readouterr().out.splitlines() == expected
    sizes = [len(call.pairs) for call in server.servicer.calls]
    assert sum(sizes) == sum(bool(line) for line in lines)
    assert max(sizes) <= 8  # the server's limit, below the command's own


def test_a_line_is_answered_before_the_next_one_is_written(server: FakeServer) -> None:
    process = start("score", "--target", server.target)
    for line, answer in (("a\tbb", "-0.5"), ("", ""), ("a\t", "-0.5")):
        process.stdin.write(line + "\r\n")
        process.stdin.flush()
        assert process.stdout.readline() == answer + "\n"
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_two_files_are_read_side_by_side(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sources, targets = tmp_path / "en", tmp_path / "de"
    sources.write_text("".join(f"line {number}\n" for number in range(700)))
    targets.write_text("\n".join("x" * (1 + number % 9) for number in range(700)))  # the last line needs no end
    assert score(server, "--length-penalty", "0", "--files", str(sources), str(targets)) == 0
    assert capsys.readouterr().out.splitlines() == [f"{-(1 + number % 9) / 4 - 0.5:.6g}" for number in range(700)]
    sent = {pair.source.text for call in server.servicer.calls for pair in call.pairs}  # calls arrive in any order
    assert sent == {f"line {number}" for number in range(700)}

    targets.write_text("x\n" * 20)
    assert score(server, "--files", str(sources), str(targets)) == 1
    captured = capsys.readouterr()
    assert captured.err == f"seqserve: {targets} ends before line 21, and the other file has one\n"
    assert score(server, "--files", str(sources), str(tmp_path / "none")) == 1
    assert "No such file" in capsys.readouterr().err


def test_files_are_read_in_blocks_and_not_as_a_whole(tmp_path: Path) -> None:
    for name in ("en", "de"):
        (tmp_path / name).write_text("a\tb\n" * 5_000)  # a tab in a file is a part of its line
    blocks = pairs.pairs_of_files(tmp_path / "en", tmp_path / "de")
    assert next(blocks) == [("a\tb", "a\tb")] * pairs.BLOCK
    assert sum(map(len, blocks)) == 5_000 - pairs.BLOCK


def test_tokens_and_ids_are_sent_as_such(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(server, "--token-ids", "--length-penalty", "0", "5 6", "4 8") == 0
    assert score(server, "--tokens", "--length-penalty", "0", "▁a ▁b", "▁c") == 0
    assert capsys.readouterr().out == "-3.5\n-1\n"
    ids, tokens = (call.pairs[0] for call in server.servicer.calls)
    assert (list(ids.source.token_ids.ids), list(ids.target.token_ids.ids)) == ([5, 6], [4, 8])
    assert (list(tokens.source.tokens.tokens), list(tokens.target.tokens.tokens)) == (["▁a", "▁b"], ["▁c"])
    assert score(server, "--token-ids", "5", "x") == 1
    assert "line 1: token ids are whole numbers" in capsys.readouterr().err


def test_options_reach_the_server(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    languages = ["--source-language", "en", "--target-language", "de"]
    assert score(server, *languages, "--length-penalty", "-0.5", "a", "b") == 0
    assert server.servicer.calls[-1].options == seq2seq_pb2.ScoreOptions(
        source_language="en", target_language="de", length_penalty=-0.5
    )
    assert score(server, "--model-name", "capitals", "a", "b") == 0
    call = server.servicer.calls[-1]
    assert (call.model, call.options) == ("capitals", seq2seq_pb2.ScoreOptions())


@pytest.mark.parametrize("command", [["score", "a", "b"], ["align", "a", "b"], ["align", "a"]])
def test_pairs_have_a_priority_and_a_tenant(command: list[str], server: FakeServer) -> None:
    tenants = []
    server.servicer.before = lambda _, context: tenants.append(dict(context.invocation_metadata()).get("x-tenant"))
    turn = ["--priority", "-3", "--tenant", "readers"]
    assert main([*command, "--target", server.target, *turn]) == 0
    assert (server.servicer.calls[-1].options.priority, tenants) == (-3, ["readers"])


@pytest.mark.parametrize("turn", [["--priority", "11"], ["--tenant", "two words"]])
def test_a_bundle_refuses_what_a_server_would_of_priorities_and_tenants(
    turn: list[str], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--model", str(tiny_bundle), "--token-ids", "5 6", "7"]
    assert main([*command, "--priority", "10", "--tenant", "readers"]) == 0
    assert main([*command, *turn]) == exits.FAILURE
    assert f"options.{turn[0].removeprefix('--')}" in capsys.readouterr().err


@pytest.mark.parametrize(("lines", "problem"), [
    ("a\tb\nno tab\n", "line 2 has no tab between source and target"),
    ("a\tb\nc\td\te\n", "line 2 has 2 tabs: one is between two texts"),
    ("a\tb\n\n \tb\n", "line 3: INVALID_ARGUMENT: pairs[1].source: empty"),
    ("a\tb\nlong text\tb\n", "line 2: INVALID_ARGUMENT: pairs[1].source: 900 tokens are over the limit of 512"),
])
def test_a_line_that_is_refused_is_named(
    lines: str, problem: str, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, lines.encode())
    assert score(server) == exits.FAILURE
    assert capsys.readouterr().err == f"seqserve: {problem}\n"


@pytest.mark.parametrize("arguments", [
    ["score", "a"], ["score", "--files", "a", "b", "c"], ["score", "--model", "x", "--model-name", "y", "a", "b"],
    ["align", "--output", "a.gif", "a"],
])
def test_arguments_that_mean_nothing_are_a_matter_of_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == exits.USAGE
    assert capsys.readouterr().err.startswith("seqserve: ")


@pytest.mark.parametrize("command", ["score", "align"])
def test_an_unreachable_server_and_a_missing_bundle_are_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--target", "127.0.0.1:1", "a", "b"]) == exits.UNREACHABLE
    assert main([command, "--model", "/nowhere", "a", "b"]) == exits.FAILURE
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("seqserve: cannot reach a server at 127.0.0.1:1")


def test_align_prints_a_row_for_each_target_token(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(server, "two dogs", "zwei hunde da") == 0
    assert capsys.readouterr().out.splitlines() == [
        "        d <",
        "      t o /",
        "      w g s",
        "      o s >",
        "zwei  ██",
        "hunde   ██",
        "da        ██",
    ]


def test_a_source_alone_is_decoded_and_its_answer_aligned(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"two dogs\na\tb c\n\na b c\n")
    assert align(server, "--format", "pharaoh") == 0
    assert capsys.readouterr().out == "0-0 1-1\n0-0 1-1\n\n0-0 1-1 2-2\n"
    generated = [call for call in server.servicer.calls if isinstance(call, seq2seq_pb2.GenerateRequest)]
    assert [source.text for call in generated for source in call.inputs] == ["two dogs", "a b c"]
    scored = [call for call in server.servicer.calls if isinstance(call, seq2seq_pb2.ScoreRequest)]
    assert [pair.target.text for call in scored for pair in call.pairs] == ["b c"]
    assert align(server, "--json", "two dogs") == 0
    assert json.loads(capsys.readouterr().out) == {
        "source_tokens": ["two", "dogs", "</s>"], "tokens": ["TWO", "DOGS"], "token_ids": [3, 4],
        "alignment": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "score": -2.0,
    }
    assert align(server, "long words") == 1
    assert "line 1: INVALID_ARGUMENT: " in capsys.readouterr().err


def test_an_answer_that_the_models_limit_cuts_off_is_aligned(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target of that length has no room for the end token that Score adds."""
    assert main(["align", "--json", "--model", str(tiny_bundle), "--token-ids", "5"]) == 0
    aligned = json.loads(capsys.readouterr().out)
    assert len(aligned["token_ids"]) == len(aligned["alignment"]) == 128
    assert all(len(row) == 2 and sum(row) == pytest.approx(1, abs=1e-5) for row in aligned["alignment"])
    target = " ".join(map(str, aligned["token_ids"]))
    assert main(["align", "--model", str(tiny_bundle), "--token-ids", "5", target]) == exits.FAILURE
    assert "pairs[0].target" in capsys.readouterr().err


def test_align_as_json_has_all_weights(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(server, "--json", "two", "zwei da") == 0
    assert json.loads(capsys.readouterr().out) == {
        "source_tokens": ["two", "</s>"], "tokens": ["zwei", "da"], "token_ids": [4, 2],
        "alignment": [[1.0, 0.0], [0.0, 1.0]], "score": -2.0 / 3,
    }


def result_of(weights: list[list[float]], source: list[str], target: list[str]) -> Any:
    return ScoreResult(0.0, [], list(range(len(target))), target, len(source), weights, source)


def test_pharaoh_takes_the_first_of_equals_and_bundles_without_a_tokenizer_have_numbers() -> None:
    assert attention_maps.pharaoh(result_of([[0.2, 0.4, 0.4], [0.0, 0.1, 0.9]], list("abc"), list("xy"))) == "1-0 2-1"
    bare = ScoreResult(0.0, [], [7, 8], [], 2, [[1.0, 0.0], [0.0, 1.0]], [])
    assert attention_maps.labels_of(bare) == (["0", "1"], ["7", "8"])


def test_a_drawing_shows_the_weights_where_they_belong(server: FakeServer, tmp_path: Path) -> None:
    """The cell of a full weight is dark and the one beside it is light: the axes are not swapped."""
    path = tmp_path / "map.png"
    assert align(server, "--output", str(path), "a b c d", "x y") == 0
    with Image.open(path) as image:
        assert (image.format, image.width > image.height) == ("PNG", True)
        dark = dark_places(image.convert("RGB"))
    (left, top), (right, bottom) = dark
    assert left < right
    assert top < bottom


def dark_places(image: Any) -> list[tuple[int, int]]:
    """Middles of the two squares that have the darkest blue, from top to bottom."""
    full, map_only = (8, 48, 107), image.width * 3 // 4  # right of it is the scale
    places = [(x, y) for y in range(image.height) for x in range(map_only) if image.getpixel((x, y)) == full]
    middle = (min(y for _, y in places) + max(y for _, y in places)) / 2
    halves = [[place for place in places if (place[1] < middle) == upper] for upper in (True, False)]
    return [(sum(x for x, _ in half) // len(half), sum(y for _, y in half) // len(half)) for half in halves]


def test_a_drawing_is_of_one_pair_and_letters_that_no_font_has_are_told(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "map.svg"
    give_stdin(monkeypatch, b"a\tb\nc\td\n")
    assert align(server, "--output", str(path)) == exits.USAGE
    assert capsys.readouterr().err == "seqserve: --output draws one pair, and there are more\n"
    give_stdin(monkeypatch, b"\n")
    assert align(server, "--output", str(path)) == exits.USAGE
    assert not path.exists()
    capsys.readouterr()
    # Two dollar signs are no formula, and a drawing without a row is one.
    assert align(server, "--output", str(path), "$a$ b", "") == 0
    assert capsys.readouterr() == ("", "")
    assert path.read_text().startswith("<?xml")
    assert align(server, "--output", str(path), "犬", "b") == 0
    assert "lacks letters" in capsys.readouterr().err
    assert align(server, "--output", str(tmp_path / "no" / "map.png"), "a", "b") == exits.FAILURE
    assert capsys.readouterr().err.count("\n") == 1


def test_a_layer_and_a_head_are_asked_for_by_pairs_and_by_what_was_decoded(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(server, "--layer", "2", "--head", "3", "two dogs", "zwei hunde") == 0
    pair = server.servicer.calls[-1]
    assert (pair.options.alignment_layer, pair.options.alignment_head) == (2, 3)
    assert align(server, "--layer", "1", "two dogs") == 0
    decoded, scored = server.servicer.calls[-2:]
    assert isinstance(decoded, seq2seq_pb2.GenerateRequest)
    assert scored.pairs[0].source.text == "two dogs"
    assert scored.pairs[0].target.token_ids.ids
    assert scored.options.alignment_layer == 1
    assert not scored.options.HasField("alignment_head")
    assert capsys.readouterr().err == ""


def test_a_head_is_one_of_a_layer(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(server, "--head", "3", "two dogs", "zwei hunde") == exits.USAGE
    assert "--head: is one of a layer's" in capsys.readouterr().err
