"""Options of rules and draws from a caller's Python or command line to the wire, and what comes back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fake_server import TIMING, FakeServer
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_cli.main import main
from seqserve_client import Client, InvalidInput
from seqserve_client.messages import results_from
from seqserve_client.options import GenerationOptions

EVERY: GenerationOptions = {
    "repetition_penalty": 1.25, "no_repeat_ngram_size": 3, "suppress_tokens": [5, [6, 7], (8,)], "sample": True,
    "temperature": 0.5, "top_k": 50, "top_p": 0.75, "seed": 2**64 - 1, "return_logprobs": True,
}
SENT = pb.GenerationOptions(
    repetition_penalty=1.25, no_repeat_ngram_size=3, sample=True, temperature=0.5, top_k=50, top_p=0.75, seed=2**64 - 1,
    suppress_tokens=[pb.TokenIds(ids=[5]), pb.TokenIds(ids=[6, 7]), pb.TokenIds(ids=[8])], return_logprobs=True,
)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def test_every_option_has_a_place_in_the_message_and_in_the_client() -> None:
    named = set(GenerationOptions.__annotations__) - {"tenant"}  # which goes beside the message
    assert named == set(pb.GenerationOptions.DESCRIPTOR.fields_by_name)


def test_options_reach_the_server_in_every_call(server: FakeServer) -> None:
    with Client(server.target) as client:
        client.generate(["a"], **EVERY)
        assert list(client.stream("a", **EVERY))
        client.generate(["a"], sample=False, seed=0, top_k=0, suppress_tokens=[], repetition_penalty=None)
    assert [call.options for call in server.servicer.calls] == [
        SENT, SENT, pb.GenerationOptions(sample=False, seed=0, top_k=0)
    ]


@pytest.mark.parametrize(("options", "field"), [
    ({"suppress_tokens": 5}, "suppress_tokens"), ({"suppress_tokens": ["de"]}, "suppress_tokens"),
    ({"suppress_tokens": [2**31]}, "suppress_tokens"), ({"suppress_tokens": [[[5]]]}, "suppress_tokens"),
    ({"seed": -1}, "seed"), ({"seed": 2**64}, "seed"), ({"top_k": 2**31}, "top_k"), ({"sample": "yes"}, "sample"),
    ({"temperature": "warm"}, "temperature"),
])
def test_what_fits_no_message_is_named(server: FakeServer, options: dict[str, Any], field: str) -> None:
    with Client(server.target) as client, pytest.raises(InvalidInput, match=rf"options\.{field}: ") as caught:
        client.generate(["a"], **options)
    assert caught.value.field == f"options.{field}"
    assert server.servicer.calls == []


def test_seed_and_log_probabilities_come_back() -> None:
    hypotheses = [pb.Hypothesis(token_ids=[5], score=-0.5, token_log_probs=[-0.25, -0.75])]
    drawn = pb.GenerationResult(hypotheses=hypotheses, seed=0, finish_reason=pb.FINISH_REASON_EOS, timing=TIMING)
    plain = pb.GenerationResult(hypotheses=[pb.Hypothesis(token_ids=[5])], timing=TIMING)
    one, other = results_from(pb.GenerateResponse(results=[drawn, plain]))
    assert (one.seed, one.hypotheses[0].token_log_probs) == (0, [-0.25, -0.75])
    assert (other.seed, other.hypotheses[0].token_log_probs) == (None, [])


def test_options_of_the_command_line_reach_the_server(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--repetition-penalty 1.25 --no-repeat-ngram-size 3 --suppress-tokens 5 --suppress-tokens 6,7 "
        "--suppress-tokens 8 --sample --temperature 0.5 --top-k 50 --top-p 0.75 --seed 18446744073709551615 "
        "--return-logprobs --json"
    )
    assert main(["generate", "--target", server.target, *words.split(), "a"]) == 0
    assert server.servicer.calls[-1].options == SENT
    assert "seed" not in json.loads(capsys.readouterr().out), "the fake server draws nothing"
    assert main(["generate", "--target", server.target, "--no-sample", "a"]) == 0
    assert server.servicer.calls[-1].options == pb.GenerationOptions(sample=False)


@pytest.mark.parametrize(("words", "said"), [
    (["--return-logprobs"], "--return-logprobs is shown with --json only"),
    (["--suppress-tokens", "5,x"], "ids between commas, not '5,x'"),
    (["--suppress-tokens", ""], "ids between commas, not ''"),
])
def test_a_wrong_command_line_is_told(
    server: FakeServer, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    try:
        code = main(["generate", "--target", server.target, *words, "a"])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert said in capsys.readouterr().err
    assert server.servicer.calls == []
