"""Tokenising by the blocking client, the asyncio client and the command line, against the server of capitals."""

import io
import json
import sys
from typing import Any

import pytest

from fake_server import FakeServer
from seqserve_cli.main import main
from seqserve_client import AsyncClient, Client, InputTooLong, InvalidInput, TokenizedText

TWO_DOGS = TokenizedText([3, 4], ["two", "dogs"])


async def test_both_clients_answer_alike(client: Client, async_client: AsyncClient, server: FakeServer) -> None:
    assert client.tokenize(["two dogs", ""]) == await async_client.tokenize(["two dogs", ""])
    assert client.tokenize(["two dogs"], model="capitals") == [TWO_DOGS]
    assert server.servicer.calls[-1].model == "capitals"
    assert client.tokenize(["a"], add_special_tokens=True) == [TokenizedText([1, 1], ["a", "</s>"])]
    assert await async_client.tokenize(["a"], add_special_tokens=True) == [TokenizedText([1, 1], ["a", "</s>"])]
    assert client.detokenize([[3, 1], []]) == await async_client.detokenize([[3, 1], ()]) == ["xxx x", ""]


async def test_empty_lists_are_answered_without_a_call(
    client: Client, async_client: AsyncClient, server: FakeServer
) -> None:
    assert client.tokenize([]) == await async_client.tokenize([]) == []
    assert client.detokenize([]) == await async_client.detokenize([]) == []
    assert server.servicer.calls == []


@pytest.mark.parametrize(("method", "argument", "message"), [
    ("tokenize", "two dogs", r"for one text write \['two dogs'\]"),
    ("tokenize", ["a", 5], "texts, entry 1: expected a string, not int"),
    ("tokenize", [b"a"], "texts, entry 0: expected a string, not bytes"),
    ("detokenize", [5, 17], "token_ids is a list of lists; entry 0 is 5"),
    ("detokenize", [[5], "17"], "token_ids is a list of lists; entry 1 is '17'"),
    ("detokenize", [["a"]], "token_ids, entry 0"),
])
async def test_a_wrong_python_call_is_a_type_error_and_sends_nothing(
    server: FakeServer, client: Client, async_client: AsyncClient, method: str, argument: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        getattr(client, method)(argument)
    with pytest.raises(TypeError, match=message):
        await getattr(async_client, method)(argument)
    assert server.servicer.calls == []


@pytest.mark.parametrize(("method", "argument", "field"), [
    ("tokenize", ["a", "\ud800"], "texts[1]"), ("detokenize", [[1], [2**31]], "token_ids[1]"),
])
def test_a_value_that_fits_no_message_is_an_invalid_input(
    client: Client, method: str, argument: Any, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        getattr(client, method)(argument)
    assert caught.value.field == field


def test_a_refusal_names_its_text(client: Client) -> None:
    with pytest.raises(InputTooLong) as caught:
        client.tokenize(["a", "long one"])
    assert caught.value.field == "texts[1]"


def run(server: FakeServer, *arguments: str) -> int:
    return main(["tokenize", "--target", server.target, *arguments])


def test_the_command_prints_ids_entries_or_json(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, "two dogs", "", "a") == 0
    assert capsys.readouterr() == ("3 4\n\n1\n", "")
    assert run(server, "--special", "--tokens", "two dogs") == 0
    assert capsys.readouterr().out == "two dogs </s>\n"
    assert run(server, "--json", "ä") == 0
    assert json.loads(capsys.readouterr().out) == {"token_ids": [1], "tokens": ["ä"]}
    assert run(server, "--reverse", "3 1", "") == 0
    assert capsys.readouterr().out == "xxx x\n\n"
    assert run(server, "--reverse", "--json", "2") == 0
    assert json.loads(capsys.readouterr().out) == {"text": "xx"}


def test_stdin_goes_through_in_batches_in_order(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["x" * (number % 9) for number in range(50)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join([*lines, "y"]).encode())))
    assert run(server) == 0
    assert capsys.readouterr().out == "".join(f"{len(line) or ''}\n" for line in [*lines, "y"])
    assert max(len(call.texts) for call in server.servicer.calls) <= 8


def test_mistakes_are_one_line_with_the_number_of_the_line(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "a", "long one") == 1
    assert capsys.readouterr().err.startswith("seqserve: line 2: INVALID_ARGUMENT: texts[1]: 900 tokens are over")
    assert run(server, "--reverse", "1", "x") == 1
    assert "line 2: token ids are whole numbers" in capsys.readouterr().err
    assert run(server, "--reverse", "--tokens", "1") == 2
    assert main(["tokenize", "--target", "127.0.0.1:9", "a"]) == 3
