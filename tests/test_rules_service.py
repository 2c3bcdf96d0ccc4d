"""Rules and draws through the whole server: a real engine, all kinds in one batch, and the bits of each alone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqserve_cli.main import main
from seqserve_client import InvalidInput
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from test_beam_service import CONTENTS, END, LIMIT, client_of, with_defaults

SEARCHES: list[dict[str, Any]] = [
    {},
    {"beam_size": 4},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 1.5, "beam_size": 3, "num_hypotheses": 3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "beam_size": 4, "num_hypotheses": 2},
    {"suppress_tokens": [[token] for token in range(3, 60)]},
    {"suppress_tokens": list(range(0, 200, 2)), "beam_size": 2},
    {"sample": True, "seed": 7},
    {"temperature": 1.5, "seed": 2**64 - 1, "min_new_tokens": 8},
    {"top_k": 5, "seed": 7, "no_repeat_ngram_size": 2},
    {"top_p": 0.6, "seed": 7, "temperature": 2.0, "repetition_penalty": 1.2},
]


def found(result: Any) -> tuple[list[tuple[list[int], float, list[float]]], int | None]:
    """What must not depend on anything else that runs."""
    return [(each.token_ids, each.score, each.token_log_probs) for each in result.hypotheses], result.seed


async def test_requests_of_all_kinds_share_the_batch_and_answer_as_alone(tiny_bundle: Path) -> None:
    asked = [(content, search) for content in CONTENTS for search in SEARCHES]
    common: dict[str, Any] = {"max_new_tokens": LIMIT, "return_logprobs": True}
    async with client_of(tiny_bundle, max_rows=24) as client:
        alone = [
            found((await client.generate(token_ids=[content], **{**common, **search}))[0]) for content, search in asked
        ]
        together = await asyncio.gather(*(
            client.generate(token_ids=[content], **{**common, **search}) for content, search in asked
        ))
        stream = client.stream(token_ids=CONTENTS[2], **{**common, **SEARCHES[9]})
        *chunks, last = [chunk async for chunk in stream]
    assert [found(result) for (result,) in together] == alone
    assert len({str(each) for each in alone}) > 3 * len(CONTENTS), "the searches find different things"
    expected = alone[2 * len(SEARCHES) + 9]
    assert last.result is not None
    assert found(last.result) == expected
    assert [token for chunk in (*chunks, last) for token in chunk.token_ids] == expected[0][0][0]


@pytest.mark.parametrize("search", [each for each in SEARCHES if "beam_size" not in each])
async def test_log_probabilities_are_the_models_own(tiny_bundle: Path, search: dict[str, Any]) -> None:
    async with client_of(tiny_bundle) as client:
        results = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, return_logprobs=True, **search)
    with LocalModel.open(tiny_bundle, threads=1) as model:
        for content, result in zip(CONTENTS, results, strict=True):
            (answer,) = result.hypotheses
            target = [*answer.token_ids, *([END] if result.finish_reason == "eos" else [])]
            logits = model.step_logits([*content, END], target).astype(np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            own = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            expected = own[np.arange(len(target)), target]
            assert len(answer.token_log_probs) == result.output_token_count
            np.testing.assert_allclose(answer.token_log_probs, expected, atol=1e-5)
            assert answer.score == pytest.approx(expected.mean(), abs=1e-5)


async def test_rules_hold_in_what_comes_back(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": 40, "min_new_tokens": 30, "beam_size": 2, "num_hypotheses": 2}
    async with client_of(tiny_bundle) as client:
        plain = await client.generate(token_ids=CONTENTS, **options)
        ones = await client.generate(token_ids=CONTENTS, no_repeat_ngram_size=1, **options)
        pairs = await client.generate(token_ids=CONTENTS, no_repeat_ngram_size=2, **options)
        likely = {token for result in plain for token in result.hypotheses[0].token_ids}
        without = await client.generate(token_ids=CONTENTS, suppress_tokens=sorted(likely), **options)
    assert any(len(set(each.token_ids)) < len(each.token_ids) for result in plain for each in result.hypotheses)
    for result in ones:
        assert all(len(set(each.token_ids)) == len(each.token_ids) for each in result.hypotheses)
    for result in pairs:
        for each in result.hypotheses:
            twos = list(zip(each.token_ids, each.token_ids[1:], strict=False))
            assert len(set(twos)) == len(twos)
    assert not likely & {token for result in without for each in result.hypotheses for token in each.token_ids}


async def test_an_unset_seed_is_new_each_time_and_gives_the_same_again(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": LIMIT, "temperature": 3.0, "min_new_tokens": LIMIT}
    async with client_of(tiny_bundle) as client:
        results = await client.generate(token_ids=[CONTENTS[2]] * 8, **options)
        seeds = [result.seed for result in results]
        assert None not in seeds
        assert len(set(seeds)) == len({tuple(result.hypotheses[0].token_ids) for result in results}) == 8
        (again,) = await client.generate(token_ids=[CONTENTS[2]], seed=seeds[5], **options)
    assert again.hypotheses == results[5].hypotheses


async def test_a_bundle_may_draw_and_hold_down_by_default(tiny_bundle: Path, tmp_path: Path) -> None:
    search: dict[str, Any] = {"temperature": 2.0, "top_k": 20, "no_repeat_ngram_size": 2, "repetition_penalty": 1.1}
    bundle = with_defaults(tiny_bundle, tmp_path, sample=True, **search)
    async with client_of(tiny_bundle) as client:
        expected = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, seed=3, **search)
    async with client_of(bundle) as client:
        unset = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, seed=3)
        beams = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, beam_size=2)
        (model,) = (await client.info()).models
    assert [found(result) for result in unset] == [found(result) for result in expected]
    assert {result.seed for result in beams} == {None}
    assert model.defaults.items() >= {**search, "sample": True, "return_logprobs": False}.items()


async def test_refusals_name_what_contradicts(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        with pytest.raises(InvalidInput, match=r"options\.top_p: it is for a beam of 1, and options\.beam_size is 4"):
            await client.generate(token_ids=CONTENTS, beam_size=4, top_p=0.9)
        with pytest.raises(InvalidInput, match=r"options\.suppress_tokens\[1\]: id 99999 is outside"):
            await client.generate(token_ids=CONTENTS, suppress_tokens=[5, 99999])


@pytest.mark.parametrize("search", SEARCHES)
async def test_a_bundle_in_this_process_answers_as_its_server(tiny_bundle: Path, search: dict[str, Any]) -> None:
    async with client_of(tiny_bundle) as client:
        expected = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, return_logprobs=True, **search)
    with LocalModel.open(tiny_bundle, threads=1) as local:
        answers = InProcess(local)
        results = answers.generate("token_ids", CONTENTS, max_new_tokens=LIMIT, return_logprobs=True, **search)
        *_, last = answers.stream("token_ids", CONTENTS[2], max_new_tokens=LIMIT, return_logprobs=True, **search)
    assert [found(result) for result in results] == [found(result) for result in expected]
    assert found(last.result) == found(results[2])


def test_the_command_line_tells_seed_and_log_probabilities(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--token-ids", "--json", "--return-logprobs", "--top-k", "9", "--seed", "5", "--max-new-tokens", "6"]
    assert main(["generate", "--model", str(tiny_bundle), *words, "5 17", "5 17"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["seed"] == second["seed"] == 5
    assert first["hypotheses"] == second["hypotheses"]
    assert len(first["hypotheses"][0]["token_log_probs"]) == first["output_token_count"]
