"""The blocking and the asyncio client against a server that answers in capitals."""

import asyncio
import threading
from typing import Any, get_args

import pytest
from grpc_health.v1 import health_pb2

import seqserve_client
from fake_server import FakeServer
from seqserve.v1 import seq2seq_pb2
from seqserve_client import (
    AsyncClient,
    Chunk,
    Client,
    GenerationOptions,
    Hypothesis,
    InvalidInput,
    ModelInfo,
    ModelLimits,
    Result,
    ServerInfo,
    Stopping,
    Timing,
    messages,
)

TWO_DOGS = Result(
    hypotheses=[Hypothesis(text="TWO DOGS", tokens=["TWO", "DOGS"], token_ids=[3, 4], score=-2.0)],
    finish_reason="eos",
    input_token_count=3,
    output_token_count=3,
    timing=Timing(queue=0.25, encode=0.5, decode=1.0, total=1.75, first_token=0.875),
)
INFO = ServerInfo(
    models=[
        ModelInfo(
            name="capitals",
            version="0123456789ab",
            family="fake",
            precision="fp32",
            has_tokenizer=True,
            limits=ModelLimits(
                max_source_tokens=512,
                max_new_tokens=256,
                max_inputs=8,
                max_waiting_requests=2048,
                source_vocab_size=100,
                target_vocab_size=100,
                max_beam_size=8,
            ),
            defaults={
                "max_new_tokens": 256, "min_new_tokens": 0, "beam_size": 2, "num_hypotheses": 1, "length_penalty": 0.2,
                "patience": 1.5, "stopping": "patience",
            },
            has_scorer=True,
            alignment_source="layer 1 of 1",
        )
    ],
    server_version="1.2.3",
)
CHUNKS = [Chunk("TWO", [3]), Chunk(" DOGS", [4]), Chunk("", [], TWO_DOGS)]


def test_every_exported_name_exists() -> None:
    assert all(hasattr(seqserve_client, name) for name in seqserve_client.__all__)


def test_generate_returns_one_result_per_text_in_order(client: Client) -> None:
    results = client.generate(["two dogs", "a", "b c"])
    assert results[0] == TWO_DOGS
    assert [result.text for result in results] == ["TWO DOGS", "A", "B C"]


def test_many_inputs_go_in_one_call(client: Client, server: FakeServer) -> None:
    client.generate(["a"] * 8)
    assert len(server.servicer.calls) == 1


def test_tokens_and_ids_need_no_text(client: Client) -> None:
    assert client.generate(tokens=[["two", "dogs"]])[0].hypotheses[0].tokens == ["TWO", "DOGS"]
    assert client.generate(token_ids=[[5, 17], (1,)])[0].hypotheses[0].token_ids == [6, 18]


def test_options_reach_the_server_and_unset_ones_stay_unset(client: Client, server: FakeServer) -> None:
    (result,) = client.generate(["two dogs"], max_new_tokens=1, min_new_tokens=None)
    assert (result.text, result.finish_reason) == ("TWO", "length")
    options = server.servicer.calls[0].options
    assert (options.HasField("max_new_tokens"), options.HasField("min_new_tokens")) == (True, False)
    client.generate(["a"], min_new_tokens=0, model="capitals")
    assert server.servicer.calls[1].options.HasField("min_new_tokens")


def test_search_options_reach_the_server_in_every_call(client: Client, server: FakeServer) -> None:
    search: GenerationOptions = {
        "beam_size": 4, "num_hypotheses": 3, "length_penalty": 0.2, "patience": 1.5, "stopping": "patience",
    }
    client.generate(["two dogs"], **search)
    list(client.stream("two dogs", **search))
    expected = seq2seq_pb2.GenerationOptions(
        beam_size=4, num_hypotheses=3, length_penalty=0.2, patience=1.5, stopping=seq2seq_pb2.STOPPING_PATIENCE
    )
    assert [call.options for call in server.servicer.calls] == [expected, expected]
    client.generate(["two dogs"], length_penalty=0, stopping=None)
    assert server.servicer.calls[-1].options == seq2seq_pb2.GenerationOptions(length_penalty=0.0)


@pytest.mark.parametrize("stopping", get_args(Stopping))
def test_every_stopping_rule_is_a_word(client: Client, server: FakeServer, stopping: Stopping) -> None:
    client.generate(["a"], stopping=stopping)
    sent = server.servicer.calls[0].options.stopping
    assert seq2seq_pb2.Stopping.Name(sent) == f"STOPPING_{stopping.upper()}"
    assert len(get_args(Stopping)) == len(seq2seq_pb2.Stopping.items()) - 1, "all but the unspecified one"


@pytest.mark.parametrize(("options", "message"), [
    ({"stopping": "early"}, "options.stopping: 'early' is not one of heuristic, full, exhaustive, patience"),
    ({"stopping": "unspecified"}, "options.stopping: 'unspecified' is not one of heuristic"),
    ({"stopping": True}, "options.stopping: True is not one of heuristic"),
    ({"stopping": ["full"]}, "options.stopping: .* is not one of heuristic"),
    ({"beam_size": 2**31}, "options.beam_size: "),
    ({"beam_size": 1.5}, "options.beam_size: "),
    ({"length_penalty": "long"}, "options.length_penalty: "),
])
def test_a_search_option_that_fits_no_message_is_named(
    client: Client, server: FakeServer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        client.generate(["a"], **options)
    assert caught.value.field == f"options.{next(iter(options))}"
    assert server.servicer.calls == []


def test_all_hypotheses_come_back_in_the_servers_order(client: Client) -> None:
    (result,) = client.generate(["two dogs play"], beam_size=4, num_hypotheses=3)
    assert [(each.text, each.token_ids, each.score) for each in result.hypotheses] == [
        ("TWO DOGS PLAY", [3, 4, 4], -3.0), ("TWO DOGS", [3, 4], -2.0), ("TWO", [3], -1.0),
    ]
    assert result.text == "TWO DOGS PLAY"
    *_, last = client.stream("two dogs play", beam_size=4, num_hypotheses=3)
    assert last.result == result


def test_a_default_that_this_client_has_no_word_for_is_its_number() -> None:
    defaults = seq2seq_pb2.GenerationOptions.FromString(bytes([9 << 3, 77]))
    response = seq2seq_pb2.GetModelInfoResponse(models=[seq2seq_pb2.ModelInfo(defaults=defaults)])
    assert messages.info_from(response).models[0].defaults == {"stopping": 77}


def test_an_empty_list_is_answered_without_a_call(client: Client, server: FakeServer) -> None:
    assert client.generate([]) == []
    assert server.servicer.calls == []


def test_chunks_join_to_the_result(client: Client) -> None:
    assert list(client.stream("two dogs")) == CHUNKS
    assert [chunk.token_ids for chunk in client.stream(token_ids=[1, 2])] == [[2], [3], []]
    assert "".join(chunk.text for chunk in client.stream(tokens=["two", "dogs"], max_new_tokens=1)) == "TWO"


def test_info_and_health(client: Client, server: FakeServer) -> None:
    assert client.info() == INFO
    assert client.health() is True
    assert client.health("no.such.Service") is False
    server.health.status = health_pb2.HealthCheckResponse.NOT_SERVING
    assert client.health() is False


async def test_the_asyncio_client_answers_alike(async_client: AsyncClient, server: FakeServer) -> None:
    assert await async_client.generate(["two dogs"]) == [TWO_DOGS]
    assert (await async_client.generate(token_ids=[[5]], max_new_tokens=1))[0].finish_reason == "length"
    assert await async_client.generate([]) == []
    assert [chunk async for chunk in async_client.stream("two dogs")] == CHUNKS
    assert await async_client.info() == INFO
    assert await async_client.health() is True
    assert await async_client.health("no.such.Service") is False


async def test_many_coroutines_share_one_asyncio_client(async_client: AsyncClient) -> None:
    results = await asyncio.gather(*(async_client.generate([f"text {number}"]) for number in range(30)))
    assert [result.text for (result,) in results] == [f"TEXT {number}" for number in range(30)]


def test_an_asyncio_client_can_be_made_before_the_loop_runs(server: FakeServer) -> None:
    connected = AsyncClient(server.target)

    async def use() -> list[Result]:
        async with connected:
            return await connected.generate(["two dogs"])

    assert asyncio.run(use()) == [TWO_DOGS]


def test_threads_share_one_client(client: Client) -> None:
    texts: dict[int, str] = {}

    def work(number: int) -> None:
        texts[number] = client.generate([f"text {number}"])[0].text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f"TEXT {number}" for number in range(8)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "two dogs"}, r"texts=\['two dogs'\]"),
        ({"tokens": "two"}, r"tokens=\['two'\]"),
        ({}, "exactly one of texts, tokens and token_ids, not none"),
        ({"texts": ["a"], "token_ids": [[1]]}, "not texts and token_ids"),
        ({"texts": ["a", 5]}, "texts, input 1: expected a string, not int"),
        ({"tokens": ["two", "dogs"]}, "tokens, input 0: expected a list of strings"),
        ({"token_ids": [5, 17]}, "token_ids, input 0: expected a list of ids, not 5"),
        ({"token_ids": [["a"]]}, "token_ids, input 0"),
        ({"texts": ["a"], "beam_sizes": 4}, "unknown option 'beam_sizes'; known: max_new_tokens, min_new_tokens"),
    ],
)
async def test_a_wrong_python_call_is_a_type_error_and_sends_nothing(
    server: FakeServer, client: Client, async_client: AsyncClient, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        client.generate(**arguments)
    with pytest.raises(TypeError, match=message):
        await async_client.generate(**arguments)
    assert server.servicer.calls == []


def test_stream_takes_one_input_only(client: Client) -> None:
    wrong: Any = ["two dogs"]
    with pytest.raises(TypeError, match="expected a string, not list"):
        client.stream(wrong)
    with pytest.raises(TypeError, match="exactly one of text, tokens and token_ids"):
        client.stream()


WORDS = " ".join(["word"] * 2000)


async def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.target)
    client.close()
    async_client = AsyncClient(server.target)
    await async_client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.generate(["a"])
    with pytest.raises(RuntimeError, match="the client is closed"):
        await async_client.generate(["a"])
