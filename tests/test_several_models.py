"""Several models in one server: which one a request means, and what is said of them."""

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from pencil import END, answer
from refusals import refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.errors import StartupError
from seqserve_server.served_models import ServedModels
from serving import ask, ids, make_stub
from swapping import LONGEST, SOURCE, Toys, expected, serving_toys, tag_of


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    toys = Toys(tmp_path)
    for place, version in (("models/de", 0), ("models/fr/1", 1), ("models/fr/2", 2)):
        toys.write(place, version, name=place.split("/")[1])
    return toys


async def tokens(stub: Any, model: str) -> list[int]:
    response = await stub.Generate(ask(ids(*SOURCE), model=model, max_new_tokens=LONGEST))
    return list(response.results[0].hypotheses[0].token_ids)


async def test_a_request_gets_the_model_it_names(toys: Toys) -> None:
    async with serving_toys(toys, toys.directory / "models") as (server, channel):
        stub = make_stub(channel)
        assert server.ready_line.endswith(" models=de,fr")
        assert await tokens(stub, "de") == expected(0)
        assert await tokens(stub, "fr") == expected(2)
        info = await stub.GetModelInfo(pb.GetModelInfoRequest())
        assert [model.name for model in info.models] == ["de", "fr"]
        assert len({model.version for model in info.models}) == 2
        assert [server.models.is_ready(name) for name in ("de", "fr", "")] == [True, True, False]
        unknown = await refusal(stub.Generate(ask("c d", model="nl")))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert "served: de, fr" in unknown.message


async def test_without_a_name_the_caller_is_told_the_names(toys: Toys) -> None:
    async with serving_toys(toys, toys.directory / "models") as (_, channel):
        stub = make_stub(channel)
        calls = (
            stub.Generate(ask("c d")), stub.Tokenize(pb.TokenizeRequest(texts=["c d"])),
            stub.Detokenize(pb.DetokenizeRequest(token_ids=[pb.TokenIds(ids=[5])])), stub.Score(pb.ScoreRequest()),
        )
        for call in calls:
            error = await refusal(call)
            assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "model")
            assert "name one of: de, fr" in error.message


async def test_the_default_model_is_that_of_requests_without_a_name(toys: Toys) -> None:
    paths = (toys.directory / "models",)
    async with serving_toys(toys, *paths, default_model="fr") as (_, channel):
        stub = make_stub(channel)
        assert await tokens(stub, "") == expected(2)
        assert await tokens(stub, "de") == expected(0)
        described = await stub.GetModelInfo(pb.GetModelInfoRequest())
        assert [model.name for model in described.models] == ["fr", "de"]  # who takes the first takes the default
    with pytest.raises(StartupError, match="--default-model: 'nl' is not one of de, fr"):
        async with serving_toys(toys, *paths, default_model="nl"):
            raise AssertionError("it must not start")


async def test_two_bundles_of_one_name_are_refused_with_both_paths(toys: Toys) -> None:
    other = toys.write("other", 5, name="fr")
    told = re.escape(f"model 'fr' is in {toys.directory / 'models/fr/2'} and in {other}")
    with pytest.raises(StartupError, match=told):
        async with serving_toys(toys, toys.directory / "models", other):
            raise AssertionError("it must not start")


async def test_models_run_beside_each_other_with_series_of_their_own(toys: Toys) -> None:
    async with serving_toys(toys, toys.directory / "models") as (server, channel):
        stub = make_stub(channel)
        for model, count in (("de", 2), ("fr", 3)):
            for _ in range(count):
                await stub.Generate(ask("c d", model=model))

        def ended(model: str) -> float:
            labels = {"model_name": model, "finish_reason": "eos"}
            return server.registry.get_sample_value("seqserve_requests_total", labels) or 0.0

        while (ended("de"), ended("fr")) != (2, 3):  # book-keeping comes after the answers
            await asyncio.sleep(0.002)


def test_names_are_not_ready_before_all_models_are() -> None:
    models = ServedModels()
    assert not models.is_ready("toy")
    assert models.names == []


def test_the_toy_versions_differ_from_each_other_and_from_every_mixture() -> None:
    answers = {tuple(expected(version)) for version in range(8)}
    assert len(answers) == 8
    for version in range(8):
        mixed = answer((*SOURCE, *_tags(version, version + 1)), LONGEST)[0]
        assert mixed not in (expected(version), expected(version + 1))


def _tags(described: int, engine: int) -> list[int]:
    return [tag_of(described), END, tag_of(engine), tag_of(engine)]
