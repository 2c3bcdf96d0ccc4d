"""Prefixes and alternatives through the whole server: part of the answer, not of its score, in any mix and stream."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusals import refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_cli.main import main
from seqserve_client import InvalidInput
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from serving import ask, serving
from test_beam_service import CONTENTS, END, LIMIT, client_of

PREFIX = [9, 33, 61]
SEARCHES: list[dict[str, Any]] = [
    {},
    {"prefix": PREFIX},
    {"prefix": PREFIX, "beam_size": 4, "num_hypotheses": 3},
    {"prefix": PREFIX[:1], "top_k": 5, "seed": 3},
    {"prefix": PREFIX, "prefix_bias": 0.5, "beam_size": 2},
    {"prefix": PREFIX, "prefix_bias": 0.9},
    {"return_alternatives": True, "num_hypotheses": 6},
    {"prefix": PREFIX[:2], "return_alternatives": True, "num_hypotheses": 3, "beam_size": 3},
    {"prefix": PREFIX[:2], "return_alternatives": True, "num_hypotheses": 9, "min_alternative_probability": 0.004},
    {"prefix": PREFIX, "no_repeat_ngram_size": 1},
    {"required_phrases": [[40, 41], [7]], "beam_size": 4, "num_hypotheses": 2},
    {"required_phrases": [[40, 41]], "beam_size": 2, "prefix": PREFIX, "banned_phrases": [[7], [33, 61, 9]]},
    {"banned_phrases": [[7], [40]], "beam_size": 2},
]


def found(result: Any) -> list[Any]:
    return [(each.token_ids, each.score, each.token_log_probs) for each in result.hypotheses]


async def test_prefixes_and_alternatives_share_the_batch_and_answer_as_alone(tiny_bundle: Path) -> None:
    asked = [(content, search) for content in CONTENTS for search in SEARCHES]
    common: dict[str, Any] = {"max_new_tokens": LIMIT, "return_logprobs": True}
    async with client_of(tiny_bundle, max_rows=24) as client:
        alone = [
            found((await client.generate(token_ids=[content], **{**common, **search}))[0]) for content, search in asked
        ]
        together = await asyncio.gather(*(
            client.generate(token_ids=[content], **{**common, **search}) for content, search in asked
        ))
        for number, (content, search) in enumerate(asked[: 2 * len(SEARCHES)]):
            *chunks, last = [chunk async for chunk in client.stream(token_ids=content, **{**common, **search})]
            assert last.result is not None
            assert found(last.result) == alone[number]
            assert [token for chunk in (*chunks, last) for token in chunk.token_ids] == alone[number][0][0]
    assert [found(result) for (result,) in together] == alone
    local = InProcess(LocalModel.open(tiny_bundle, threads=1))
    assert [found(local.generate("token_ids", [content], **{**common, **search})[0]) for content, search in asked] == (
        alone
    )


async def test_a_prefix_is_in_the_answer_and_neither_in_its_score_nor_its_limit(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        results = await client.generate(
            token_ids=CONTENTS, prefix=PREFIX, max_new_tokens=LIMIT, return_logprobs=True, beam_size=2
        )
    with LocalModel.open(tiny_bundle, threads=1) as model:
        for content, result in zip(CONTENTS, results, strict=True):
            (answer,) = result.hypotheses
            assert answer.token_ids[: len(PREFIX)] == PREFIX
            target = [*answer.token_ids, *([END] if result.finish_reason == "eos" else [])]
            generated = len(target) - len(PREFIX)
            assert result.output_token_count == generated <= LIMIT
            logits = model.step_logits([*content, END], target).astype(np.float64)[len(PREFIX) :]
            own = logits - logits.max(axis=1, keepdims=True)
            own -= np.log(np.exp(own).sum(axis=1, keepdims=True))
            expected = own[np.arange(generated), target[len(PREFIX) :]]
            np.testing.assert_allclose(answer.token_log_probs, expected, atol=1e-5)
            assert answer.score == pytest.approx(expected.mean(), abs=1e-5)


async def test_a_prefix_in_words_is_part_of_text_and_stream() -> None:
    async with serving() as served:
        for prefix in (pb.Target(text="l z y"), pb.Target(tokens=pb.Tokens(tokens=["l", "z", "y"]))):
            result = (await served.stub.Generate(ask("c d", prefix=prefix))).results[0]
            assert result.hypotheses[0].text == "l z y w s k x u o c h r i t m", "what comes after l z y anyway"
            assert result.output_token_count == 13
        alone = (await served.stub.Generate(ask("c d", prefix=pb.Target(text="  ")))).results[0]
        assert alone.output_token_count == 16, "an empty prefix is none"


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"prefix": pb.Target()}, "options.prefix: one of text, tokens and token_ids is required"),
    ({"prefix": pb.Target(tokens=pb.Tokens(tokens=["l", "7"]))}, "options.prefix.tokens[1]: not in the vocabulary"),
    ({"prefix": pb.Target(token_ids=pb.TokenIds(ids=[5, 29]))}, "options.prefix.token_ids[1]: id 29 is outside 0..28"),
    ({"prefix": pb.Target(token_ids=pb.TokenIds(ids=[5, END]))}, "options.prefix.token_ids[1]: id 1 is the end token"),
    ({"prefix": pb.Target(token_ids=pb.TokenIds(ids=[5] * 64))}, "options.prefix: 64 tokens leave none of the 64"),
    ({"prefix": pb.Target(token_ids=pb.TokenIds(ids=[5] * 65))}, "options.prefix.token_ids: 65 tokens are over the 64"),
    ({"prefix": pb.Target(token_ids=pb.TokenIds(ids=[5] * 60)), "max_new_tokens": 5},
     "options.max_new_tokens: 5 is outside 1..4 (the model's 64 less 60 of options.prefix)"),
    ({"prefix_bias": 0.5}, "options.prefix_bias: 0.5, but options.prefix is empty"),
    ({"prefix": pb.Target(text="l"), "prefix_bias": 1.0}, "options.prefix_bias: 1 is not over 0 and below 1"),
    ({"prefix": pb.Target(text="l"), "prefix_bias": float("nan")}, "options.prefix_bias: nan is not over 0"),
    ({"prefix": pb.Target(text="l"), "prefix_bias": 0.5, "return_alternatives": True},
     "options.prefix_bias: options.return_alternatives needs a forced options.prefix"),
    ({"return_alternatives": True, "num_hypotheses": 0}, "options.num_hypotheses: 0 is below 1"),
    ({"return_alternatives": True, "num_hypotheses": 9, "beam_size": 4},
     "options.num_hypotheses: 9 alternatives by options.beam_size 4 are over the 32 rows of a request"),
    ({"return_alternatives": True, "top_k": 3}, "options.top_k: it is for a beam of 1, and options.return_"),
    ({"min_alternative_probability": 0.5}, "options.min_alternative_probability: 0.5 means nothing without"),
    ({"return_alternatives": True, "min_alternative_probability": 1.5}, "options.min_alternative_probability: 1.5 is"),
    ({"return_alternatives": True, "coverage_penalty": 0.5}, "options.coverage_penalty: 0.5: it orders answers"),
    ({"required_phrases": [pb.Target(text="c")]}, "options.required_phrases: options.beam_size is 1, and several"),
    ({"required_phrases": [pb.Target(text=" ")], "beam_size": 2}, "options.required_phrases[0]: empty"),
    ({"required_phrases": [pb.Target(text="c")], "top_k": 2}, "options.required_phrases: tokens are drawn"),
    ({"required_phrases": [pb.Target(text="c")], "beam_size": 2, "no_repeat_ngram_size": 2},
     "options.required_phrases: options.no_repeat_ngram_size is 2, not 0"),
    ({"required_phrases": [pb.Target(text="c d e")], "beam_size": 2, "banned_phrases": [pb.Target(text="d")]},
     "options.required_phrases[0]: it holds [6], which is banned"),
    ({"required_phrases": [pb.Target(text="a"), pb.Target(text="a"), pb.Target(text="c d e")], "beam_size": 2,
      "banned_phrases": [pb.Target(text="d")]}, "options.required_phrases[2]: it holds [6], which is banned"),
    ({"required_phrases": [pb.Target(text="c d e")], "beam_size": 2, "max_new_tokens": 2},
     "options.required_phrases: 3 tokens do not fit options.max_new_tokens 2"),
    ({"banned_phrases": [pb.Target()]}, "options.banned_phrases[0]: one of text, tokens and token_ids is required"),
    ({"banned_phrases": [pb.Target(text="c")] * 65}, "options.banned_phrases: 65 entries are over 64"),
    ({"coverage_penalty": 11}, "options.coverage_penalty: 11 is outside -10..10"),
]


async def test_phrases_are_in_every_answer_or_in_none(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        required = await client.generate(
            token_ids=CONTENTS, required_phrases=[[40, 41], [7]], beam_size=4, num_hypotheses=4, max_new_tokens=LIMIT
        )
        plain = await client.generate(token_ids=CONTENTS, beam_size=4, max_new_tokens=LIMIT)
        likely = [result.hypotheses[0].token_ids[:2] for result in plain]
        banned = await client.generate(token_ids=CONTENTS, banned_phrases=likely, beam_size=4, max_new_tokens=LIMIT)
    for result in required:
        for each in result.hypotheses:
            assert (40, 41) in zip(each.token_ids, each.token_ids[1:], strict=False)
            assert 7 in each.token_ids
    for result in banned:
        pairs = list(zip(result.hypotheses[0].token_ids, result.hypotheses[0].token_ids[1:], strict=False))
        assert not {tuple(pair) for pair in likely} & set(pairs)


@pytest.mark.parametrize(("options", "problem"), UNFIT, ids=[problem[:60] for _, problem in UNFIT])
async def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], problem: str) -> None:
    async with serving() as served:
        encoded = len(served.engine.encoded)
        error = await refusal(served.stub.Generate(ask("c d", **options)))
        assert len(served.engine.encoded) == encoded, "refused before anything is started"
    assert error.reason == "INVALID_FIELD"
    assert error.message.startswith(problem)


async def test_the_client_takes_a_prefix_in_three_forms(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        with pytest.raises(InvalidInput, match=r"options\.prefix\.text: this model has no tokenizer"):
            await client.generate(token_ids=[[5]], prefix="a word")
        with pytest.raises(InvalidInput, match=r"options\.prefix\.tokens: this model has no tokenizer"):
            await client.generate(token_ids=[[5]], prefix=["a", "word"])
        with pytest.raises(InvalidInput, match=r"options\.prefix: "):
            await client.generate(token_ids=[[5]], prefix=[2**40])


def test_the_command_line_prints_alternatives(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([
        "generate", "--model", str(tiny_bundle), "--token-ids", "--return-alternatives", "--num-hypotheses", "3",
        "--max-new-tokens", "4", "5 17",
    ])
    lines = [line.split(" ||| ") for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [line[0] for line in lines] == ["0"] * 3
    assert len({line[1].split()[0] for line in lines}) == 3
