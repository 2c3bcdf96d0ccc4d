"""``score`` of both clients: what goes out, what comes back, and calls that are wrong before they are sent."""

from typing import Any

import pytest

from fake_server import FakeServer
from seqserve.v1 import seq2seq_pb2
from seqserve_client import AsyncClient, Client, InvalidInput, ScoreResult, TooManyInputs

EXPECTED = ScoreResult(
    score=-0.75, token_log_probs=[-1.0, -0.5], token_ids=[4], tokens=["zwei"], input_token_count=3,
)


def test_pairs_in_results_out(client: Client, server: FakeServer) -> None:
    assert client.score(["two dogs", "a"], ["zwei", ""]) == [
        EXPECTED, ScoreResult(-0.5, [-0.5], [], [], 2)
    ]
    (aligned,) = client.score(["two dogs"], ["zwei da"], return_alignment=True, length_penalty=0.0)
    assert aligned.score == -2.0
    assert (aligned.source_tokens, aligned.alignment) == (["two", "dogs", "</s>"], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert server.servicer.calls[-1].options == seq2seq_pb2.ScoreOptions(return_alignment=True, length_penalty=0.0)
    (nothing,) = client.score(["two"], [""], return_alignment=True)
    assert nothing.alignment == []  # it was asked for


def test_every_form_of_either_side_is_sent_as_such(client: Client, server: FakeServer) -> None:
    client.score(source_tokens=[["▁a"]], target_token_ids=[[4, 8]], model="capitals", source_language=None)
    client.score(source_token_ids=[[5]], target_tokens=[["▁b"]], target_language="de")
    first, second = server.servicer.calls
    assert first == seq2seq_pb2.ScoreRequest(
        model="capitals", options=seq2seq_pb2.ScoreOptions(), pairs=[seq2seq_pb2.ScorePair(
            source=seq2seq_pb2.Input(tokens=seq2seq_pb2.Tokens(tokens=["▁a"])),
            target=seq2seq_pb2.Target(token_ids=seq2seq_pb2.TokenIds(ids=[4, 8])),
        )],
    )
    assert second.pairs[0].source == seq2seq_pb2.Input(token_ids=seq2seq_pb2.TokenIds(ids=[5]))
    assert second.pairs[0].target == seq2seq_pb2.Target(tokens=seq2seq_pb2.Tokens(tokens=["▁b"]))
    assert second.options == seq2seq_pb2.ScoreOptions(target_language="de")


async def test_the_asyncio_client_answers_alike(async_client: AsyncClient, server: FakeServer) -> None:
    assert await async_client.score(["two dogs"], ["zwei"]) == [EXPECTED]
    assert await async_client.score([], []) == []
    with pytest.raises(TooManyInputs):
        await async_client.score(["a"] * 9, ["b"] * 9)
    assert len(server.servicer.calls) == 2


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, TypeError, "exactly one of sources, source_tokens and source_token_ids, not none"),
    ({"sources": ["a"]}, TypeError, "exactly one of targets"),
    ({"sources": ["a"], "source_tokens": [["a"]], "targets": ["b"]}, TypeError, "not sources and source_tokens"),
    ({"sources": "a", "targets": ["b"]}, TypeError, "sources is a list"),
    ({"sources": ["a", "b"], "targets": ["b"]}, ValueError, "2 sources and 1 targets"),
    ({"sources": ["a"], "targets": [5]}, TypeError, "targets, pair 0: expected a string, not int"),
    ({"sources": ["a"], "target_tokens": ["b"]}, TypeError, "target_tokens, pair 0: expected a list"),
    ({"sources": ["a"], "target_token_ids": [5]}, TypeError, "target_token_ids, pair 0: expected a list"),
    ({"sources": ["a"], "targets": ["b"], "beam_size": 4}, TypeError, "unknown option 'beam_size'"),
    ({"sources": ["a"], "target_token_ids": [[1 << 40]]}, InvalidInput, r"pairs\[0\].target.token_ids"),
    ({"sources": ["a", "\ud800"], "targets": ["b", "c"]}, InvalidInput, r"pairs\[1\].source.text"),
    ({"sources": ["a"], "targets": ["b"], "length_penalty": "x"}, InvalidInput, "options.length_penalty"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG)
def test_a_wrong_call_is_told_before_it_is_sent(
    arguments: dict[str, Any], error: type[Exception], text: str, client: Client, server: FakeServer
) -> None:
    with pytest.raises(error, match=text):
        client.score(**arguments)
    assert server.servicer.calls == []
