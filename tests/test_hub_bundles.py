"""From a multilingual directory to answers: real graphs and engine, then the server with languages by request."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hub_files import GOLDEN, Golden
from refusals import refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_export import proof_sources
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server.config import ServerConfig
from seqserve_server.local import LocalModel
from seqserve_server.server import running_server
from serving import ask, make_stub


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Bundles that passed their proof: BART's forces its end, M2M100's has languages and its own kind of text."""
    directory = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof_sources, "COUNT", 24)
        for name in ("m2m100", "bart"):
            export_bundle(
                ExportOptions(source=GOLDEN / name, out=directory / name),
                lambda path, **how: LocalModel.open(path, threads=1, **how),
            )
        yield directory


@pytest.mark.parametrize("name", ["m2m100", "bart"])
def test_a_bundle_answers_as_transformers_does(name: str, bundles: Path) -> None:
    golden = Golden.read(name)
    with LocalModel.open(bundles / name, threads=1) as model:
        for case in golden.cases:
            frame = model.served.description.framing.frame(case.source_language, case.target_language)
            answers = model.generate(case.sources, [frame.prompt] * len(case.sources))
            rows = [golden.whole_row(frame, each.token_ids, each.finish_reason) for each in answers]
            assert rows == case.rows


async def test_the_server_takes_languages_and_names_those_that_it_has(bundles: Path) -> None:
    golden = Golden.read("m2m100")
    config = ServerConfig(bundles=(bundles / "m2m100",), port=0, metrics_port=0, threads=1)
    async with (
        running_server(config) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = make_stub(channel)
        (info,) = (await stub.GetModelInfo(pb.GetModelInfoRequest())).models
        assert (len(info.languages), info.defaults.source_language) == (100, "en")
        for case in golden.cases:
            request = ask(*golden.expected["texts"])
            request.options.target_language = case.target_language or ""
            if case.source_language is not None:
                request.options.source_language = case.source_language
            results = (await stub.Generate(request)).results
            frame = golden.frame(case)
            for result, row in zip(results, case.rows, strict=True):
                ended = result.finish_reason == pb.FINISH_REASON_EOS
                assert [*frame.prompt, *result.hypotheses[0].token_ids, *([2] if ended else [])] == row
        error = await refusal(stub.Generate(ask("A man")))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "target_language: is required, this model has several languages: af, am, ar, ast" in error.message
        request = ask("A man")
        request.options.target_language = "tlh"
        assert "'tlh' is not one of af, am, ar, ast" in (
            await refusal(stub.Generate(request))
        ).message
