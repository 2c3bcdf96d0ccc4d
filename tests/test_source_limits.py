"""A caller's own limit of source tokens, and what is over it cut off."""

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import END
from fake_server import FakeServer
from refusals import refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_cli.main import main
from seqserve_client import AsyncClient, InputTooLong
from seqserve_server.admission import SourceLimit, resolve_options
from seqserve_server.errors import InputTooLong as ServersInputTooLong
from seqserve_server.errors import InvalidRequest
from seqserve_server.inputs import read_limited_source
from seqserve_server.search_options import Options
from serving import ask, ask_stream, describe, ids, make_tokenizer, serving

MODEL = describe()  # sources of at most 32 tokens, of which the end token is one
FRAME = MODEL.framing.frame()
TOKENIZER = make_tokenizer()


def read(kind: str, content: Any, limit: SourceLimit | None, **changes: Any) -> tuple[tuple[int, ...], int]:
    model = describe(**changes)
    return read_limited_source(kind, content, model, model.framing.frame(), TOKENIZER, "input", limit)


@pytest.mark.parametrize(("options", "said"), [
    (Options(max_source_tokens=0), "options.max_source_tokens: 0 is outside 1..32"),
    (Options(max_source_tokens=33), "options.max_source_tokens: 33 is outside 1..32"),
    (Options(max_source_tokens=1), "options.max_source_tokens: 1 leaves no room beside 1 special tokens"),
    (Options(max_source_tokens=-1, truncate=True), "options.max_source_tokens: -1 is outside 1..32"),
])
def test_a_limit_that_makes_no_sense_is_refused(options: Options, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve_options(options, MODEL, 32)
    assert str(caught.value) == said


def test_the_models_limit_holds_where_there_is_no_other() -> None:
    assert resolve_options(Options(), MODEL, 32).source_limit is None
    assert resolve_options(Options(truncate=False), MODEL, 32).source_limit is None
    assert resolve_options(Options(truncate=True), MODEL, 32).source_limit == SourceLimit(32, truncate=True)
    assert resolve_options(Options(max_source_tokens=7), MODEL, 32).source_limit == SourceLimit(7)


@pytest.mark.parametrize(("kind", "content"), [
    ("text", "a b c d e"), ("tokens", ["a", "b", "c", "d", "e"]), ("token_ids", [3, 4, 5, 6, 7]),
])
def test_the_end_of_the_content_goes_and_special_tokens_stay(kind: str, content: Any) -> None:
    assert read(kind, content, SourceLimit(4, truncate=True)) == ((3, 4, 5, END), 2)
    assert read(kind, content, SourceLimit(6, truncate=True)) == ((3, 4, 5, 6, 7, END), 0)
    with pytest.raises(ServersInputTooLong, match=rf"input\.{kind}: 6 tokens.*over the limit of 5"):
        read(kind, content, SourceLimit(5))
    assert read(kind, content, SourceLimit(6)) == ((3, 4, 5, 6, 7, END), 0)
    around = {"source_prefix": (9, 8), "source_suffix": (END,)}
    assert read(kind, content, SourceLimit(5, truncate=True), **around) == ((9, 8, 3, 4, END), 3)


def test_empty_content_is_refused_however_it_may_be_cut() -> None:
    for kind, content in (("text", " "), ("tokens", []), ("token_ids", [])):
        with pytest.raises(InvalidRequest, match="empty"):
            read(kind, content, SourceLimit(4, truncate=True))


@given(st.lists(st.integers(3, 28), min_size=1, max_size=60), st.integers(2, 32))
def test_what_is_left_is_a_beginning_as_long_as_may_be(content: list[int], most: int) -> None:
    source, cut = read("token_ids", content, SourceLimit(most, truncate=True))
    assert source == (*content[: len(content) - cut], END)
    assert cut == max(0, len(content) + 1 - most)


async def test_a_cut_source_is_answered_as_the_short_one_and_told_of() -> None:
    async with serving() as served:
        (short,) = (await served.stub.Generate(ask("c d"))).results
        (cut,) = (await served.stub.Generate(ask("c d e f", max_source_tokens=3, truncate=True))).results
        assert (cut.truncated_token_count, cut.input_token_count) == (2, 3)
        assert (short.truncated_token_count, cut.hypotheses) == (0, short.hypotheses)
        (long,) = (await served.stub.Generate(ask(ids(*[5, 6] * 30), truncate=True))).results
        assert (long.truncated_token_count, long.input_token_count) == (29, 32)
        *_, last = [part async for part in served.stub.GenerateStream(
            ask_stream("c d e f", max_source_tokens=3, truncate=True)
        )]
        assert (last.result.truncated_token_count, last.result.hypotheses) == (2, short.hypotheses)
        error = await refusal(served.stub.Generate(ask("a", "c d e f", max_source_tokens=4)))
        assert (error.code, error.reason, error.field) == (
            grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG", "inputs[1].text"
        )


async def test_the_client_tells_too() -> None:
    async with serving() as served, AsyncClient(f"127.0.0.1:{served.server.port}", timeout=20) as client:
        (result,) = await client.generate(["c d e f"], max_source_tokens=3, truncate=True)
        assert result.truncated_token_count == 2
        with pytest.raises(InputTooLong, match="over the limit of 3"):
            await client.generate(["c d e f"], max_source_tokens=3)
        document = await client.translate_document("c d e f", max_source_tokens=3)
        assert [passage.source for passage in document.passages] == ["c d", "e f"]


def test_the_command_line_takes_both(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--max-source-tokens", "9", "--truncate", "--json", "a"]) == 0
    assert server.servicer.calls[-1].options == pb.GenerationOptions(max_source_tokens=9, truncate=True)
    assert "truncated_token_count" not in capsys.readouterr().out  # nothing was cut off
