"""Beams through the whole server: the client's options, a real engine, several hypotheses, streams, any mix."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqserve.bundle import MODEL_FILE
from seqserve.manifest import write_manifest
from seqserve_client import AsyncClient, Hypothesis, InvalidInput
from seqserve_server.config import ServerConfig
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.server import running_server

CONTENTS = [[5], [17, 5], [9, 33, 61, 120], list(range(3, 40)), [7, 7, 7], [150, 40, 3, 99, 12]]
END = 1
LIMIT = 12
SEARCHES: list[dict[str, Any]] = [
    {"beam_size": 1},
    {"beam_size": 4},
    {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.0},
    {"beam_size": 3, "num_hypotheses": 2, "length_penalty": 2.0, "stopping": "full"},
    {"beam_size": 2, "num_hypotheses": 2, "stopping": "exhaustive"},
    {"beam_size": 5, "num_hypotheses": 5, "patience": 2.0},
    {"beam_size": 4, "num_hypotheses": 2, "min_new_tokens": 5, "stopping": "patience"},
    {"beam_size": 8, "num_hypotheses": 1, "length_penalty": -1.0},
]


@asynccontextmanager
async def client_of(bundle: Path, **config: Any) -> AsyncIterator[AsyncClient]:
    """A client of a server with this bundle."""
    settings = ServerConfig(bundles=(bundle,), port=0, metrics_port=0, threads=1, **config)
    async with running_server(settings) as server, AsyncClient(f"127.0.0.1:{server.port}", timeout=60) as client:
        yield client


def found(result: Any) -> list[tuple[list[int], float]]:
    """What must not depend on anything else that runs, of the client's results and of those in-process."""
    return [(each.token_ids, each.score) for each in result.hypotheses]


def own_score(model: LocalModel, content: list[int], hypothesis: Hypothesis, length_penalty: float) -> float:
    """The model's score of a hypothesis, fed to it token by token."""
    ended = len(hypothesis.token_ids) < LIMIT
    target = [*hypothesis.token_ids, *([END] if ended else [])]
    logits = model.step_logits([*content, END], target).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(log_probs[np.arange(len(target)), target].sum() / len(target) ** length_penalty)


@pytest.mark.parametrize("search", SEARCHES)
async def test_hypotheses_are_best_first_and_have_the_models_own_scores(
    tiny_bundle: Path, search: dict[str, Any]
) -> None:
    async with client_of(tiny_bundle) as client:
        results = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, **search)
    with LocalModel.open(tiny_bundle, threads=1) as model:
        for content, result in zip(CONTENTS, results, strict=True):
            assert len(result.hypotheses) == search.get("num_hypotheses", 1)
            assert len({tuple(each.token_ids) for each in result.hypotheses}) == len(result.hypotheses)
            scores = [each.score for each in result.hypotheses]
            assert scores == sorted(scores, reverse=True)
            for hypothesis in result.hypotheses:
                assert search.get("min_new_tokens", 1) - 1 <= len(hypothesis.token_ids) <= LIMIT
                expected = own_score(model, content, hypothesis, search.get("length_penalty", 1.0))
                assert hypothesis.score == pytest.approx(expected, abs=1e-4)
            ended = result.finish_reason == "eos"
            assert result.output_token_count == len(result.hypotheses[0].token_ids) + ended


async def test_requests_of_all_kinds_share_the_batch_and_answer_as_alone(tiny_bundle: Path) -> None:
    asked = [(content, search) for content in CONTENTS for search in SEARCHES]
    async with client_of(tiny_bundle, max_rows=32) as client:
        alone = [
            found((await client.generate(token_ids=[content], max_new_tokens=LIMIT, **search))[0])
            for content, search in asked
        ]
        together = await asyncio.gather(*(
            client.generate(token_ids=[content], max_new_tokens=LIMIT, **search) for content, search in asked
        ))
    assert [found(result) for (result,) in together] == alone
    assert len({str(answer) for answer in alone}) > len(CONTENTS), "the searches find different things"


@pytest.mark.parametrize("search", SEARCHES)
async def test_a_stream_gives_the_unary_answer(tiny_bundle: Path, search: dict[str, Any]) -> None:
    async with client_of(tiny_bundle) as client:
        for content in CONTENTS:
            (whole,) = await client.generate(token_ids=[content], max_new_tokens=LIMIT, **search)
            stream = client.stream(token_ids=content, max_new_tokens=LIMIT, **search)
            *chunks, last = [chunk async for chunk in stream]
            assert last.result is not None
            assert found(last.result) == found(whole)
            streamed = [token_id for chunk in (*chunks, last) for token_id in chunk.token_ids]
            assert streamed == whole.hypotheses[0].token_ids
            assert all(chunk.result is None for chunk in chunks)


async def test_an_abandoned_stream_leaves_the_others_as_they_are(tiny_bundle: Path) -> None:
    async with client_of(tiny_bundle) as client:
        alone = await client.generate(token_ids=[CONTENTS[2]], max_new_tokens=LIMIT, beam_size=4, num_hypotheses=4)
        stream = client.stream(token_ids=CONTENTS[3], max_new_tokens=100, min_new_tokens=100, beam_size=1)
        await anext(stream)
        beside = asyncio.ensure_future(
            client.generate(token_ids=[CONTENTS[2]], max_new_tokens=LIMIT, beam_size=4, num_hypotheses=4)
        )
        await stream.aclose()
        assert [found(result) for result in await beside] == [found(result) for result in alone]


def with_defaults(bundle: Path, directory: Path, **search: Any) -> Path:
    """A copy of a bundle that searches otherwise where a request does not say."""
    copy = shutil.copytree(bundle, directory / "searching")
    values = json.loads((copy / MODEL_FILE).read_text())
    values["search"].update(search)
    (copy / MODEL_FILE).write_text(json.dumps(values))
    write_manifest(copy)
    return copy


async def test_an_unset_option_means_what_the_bundle_says(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_defaults(tiny_bundle, tmp_path, beam_size=4, length_penalty=0.5, stopping="full")
    search: dict[str, Any] = {"beam_size": 4, "length_penalty": 0.5, "stopping": "full"}
    async with client_of(tiny_bundle) as client:
        beams = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, num_hypotheses=3, **search)
        greedy = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, length_penalty=0.5)
    async with client_of(bundle) as client:
        unset = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, num_hypotheses=3)
        single = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, beam_size=1)
        (model,) = (await client.info()).models
    assert [found(result) for result in unset] == [found(result) for result in beams]
    assert [found(result) for result in single] == [found(result) for result in greedy]
    assert model.defaults.items() >= {**search, "num_hypotheses": 1}.items()
    assert model.limits.max_beam_size == 32


async def test_a_small_engine_bounds_the_beam(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_defaults(tiny_bundle, tmp_path, beam_size=8)
    async with client_of(bundle, max_rows=4) as client:
        (model,) = (await client.info()).models
        assert (model.limits.max_beam_size, model.defaults["beam_size"]) == (4, 4)
        unset = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT)
        given = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, beam_size=4)
        assert [found(result) for result in unset] == [found(result) for result in given]
        with pytest.raises(InvalidInput, match=r"options\.beam_size: 5 is outside 1\.\.4") as caught:
            await client.generate(token_ids=CONTENTS, beam_size=5)
    assert caught.value.field == "options.beam_size"


@pytest.mark.parametrize("search", SEARCHES)
async def test_a_bundle_in_this_process_answers_as_its_server(tiny_bundle: Path, search: dict[str, Any]) -> None:
    async with client_of(tiny_bundle) as client:
        expected = await client.generate(token_ids=CONTENTS, max_new_tokens=LIMIT, **search)
    with LocalModel.open(tiny_bundle, threads=1) as local:
        answers = InProcess(local)
        results = answers.generate("token_ids", CONTENTS, max_new_tokens=LIMIT, **search)
        assert [found(result) for result in results] == [found(result) for result in expected]
        *chunks, last = answers.stream("token_ids", CONTENTS[2], max_new_tokens=LIMIT, **search)
    assert found(last.result) == found(results[2])
    assert [token_id for chunk in chunks for token_id in chunk.token_ids] == expected[2].hypotheses[0].token_ids
