"""The Open Inference Protocol over real gRPC: whole answers, and what is told of server and model."""

import asyncio
import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from arithmetic_engine import ArithmeticEngine
from infer_requests import add_input, answers_to, infer, make_stub, tensors_of
from refusals import refusal
from seqserve_server.config import ServerConfig
from seqserve_server.open_inference import SERVICE_NAME, model_metadata
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.inference import OUTPUTS
from seqserve_server.served_model import ServedModel
from seqserve_server.server import running_server
from serving import PENCIL_TEXT, ask, make_config, make_health, make_model, serving
from test_metrics_scrape import scrape
from test_server_life import _free_port

USUAL = {
    "text_output": [PENCIL_TEXT], "finish_reason": ["eos"], "num_input_tokens": [3], "num_output_tokens": [16],
}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [[1], [1, 1]])
async def test_a_text_is_answered_in_its_shape_and_as_it_was_packed(raw: bool, shape: list[int]) -> None:
    async with serving() as served:
        response = await make_stub(served.channel).ModelInfer(infer("c d", id="seven", raw=raw, shape=shape))
    assert (response.model_name, response.model_version, response.id) == ("pencil", "0123456789ab", "seven")
    assert tensors_of(response) == USUAL
    assert bool(response.raw_output_contents) is raw
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("text_output", "BYTES", shape), ("finish_reason", "BYTES", shape), ("num_input_tokens", "UINT32", shape),
        ("num_output_tokens", "UINT32", shape),
    ]
    assert not response.parameters


async def test_many_texts_get_the_native_services_answers_in_order() -> None:
    texts = ["c d", "a", "x y z", "q", "c d", "m n o p"]
    async with serving() as served:
        native = await served.stub.Generate(ask(*texts, max_new_tokens=20, beam_size=3))
        response = await make_stub(served.channel).ModelInfer(infer(*texts, max_tokens=20, num_beams=3))
    tensors = tensors_of(response)
    assert tensors["text_output"] == [result.hypotheses[0].text for result in native.results]
    assert tensors["num_output_tokens"] == [result.output_token_count for result in native.results]
    assert len(set(tensors["text_output"])) == 5


async def test_an_answer_does_not_depend_on_what_else_is_asked_by_either_service() -> None:
    texts = ["c d", "a", "x y z", "q"]
    async with serving() as served:
        stub = make_stub(served.channel)
        alone = [tensors_of(await stub.ModelInfer(infer(text))) for text in texts]
        before = len(served.engine.steps)
        together = await asyncio.gather(
            served.stub.Generate(ask("k l", "b")), *(stub.ModelInfer(infer(text)) for text in texts)
        )
        assert max(served.engine.steps[before:]) > 1
    assert [tensors_of(response) for response in together[1:]] == alone


async def test_a_lone_tensor_of_bytes_is_the_text_whatever_its_name() -> None:
    async with serving() as served:
        stub = make_stub(served.channel)
        request = infer("c d", name="input-0", sampling='{"max_tokens": 4}', stream=False)
        assert tensors_of(await stub.ModelInfer(request))["text_output"] == ["l z y w"]
        request = infer("c d", name="input-0")
        add_input(request, "input-1", "BYTES", ["e"])
        error = await refusal(stub.ModelInfer(request))
    assert error.field == "text_input"
    assert error.message == "text_input: it is missing, and 2 tensors of BYTES could be it"


async def test_several_hypotheses_are_a_row_each_and_what_was_not_found_is_counted() -> None:
    async with serving() as served:
        native = await served.stub.Generate(ask("c d", "a", beam_size=4, num_hypotheses=3))
        response = await make_stub(served.channel).ModelInfer(infer(
            "c d", "a", shape=[2, 1], num_beams=4, num_return_sequences=3,
            outputs=["score", "text_output", "num_hypotheses"],
        ))
        few = await make_stub(served.channel).ModelInfer(infer(
            "c d", return_alternatives=True, min_alternative_probability=0.9, num_hypotheses=3,
            outputs=["text_output", "num_hypotheses", "score"],
        ))
    assert [(each.name, list(each.shape)) for each in response.outputs] == [
        ("score", [2, 3]), ("text_output", [2, 3]), ("num_hypotheses", [2, 1]),
    ]
    found = [hypothesis for result in native.results for hypothesis in result.hypotheses]
    tensors = tensors_of(response)
    assert tensors["text_output"] == [each.text for each in found]
    assert tensors["score"] == [each.score for each in found]
    assert tensors["num_hypotheses"] == [3, 3]
    assert tensors_of(few)["num_hypotheses"] == [1]
    assert tensors_of(few)["text_output"][1:] == ["", ""]


async def test_switches_leave_tensors_out_and_outputs_choose_and_order_them() -> None:
    async with serving() as served:
        stub = make_stub(served.channel)
        off = {"return_finish_reason": False, "return_num_input_tokens": True, "return_num_output_tokens": False,
               "exclude_input_in_output": False}
        left = await stub.ModelInfer(infer("c d", switches=off))
        chosen = await stub.ModelInfer(infer("c d", switches=off, outputs=["num_output_tokens", "finish_reason"]))
    assert list(tensors_of(left)) == ["text_output", "num_input_tokens"]
    assert tensors_of(chosen) == {"num_output_tokens": [16], "finish_reason": ["eos"]}


async def test_a_forced_prefix_is_part_of_the_text_and_a_stop_text_ends_it() -> None:
    async with serving() as served:
        response = await make_stub(served.channel).ModelInfer(infer("c d", prefix="b", stop="z", max_tokens=5))
        native = await served.stub.Generate(ask(
            "c d", prefix={"text": "b"}, stop=["z"], max_new_tokens=5
        ))
    assert tensors_of(response)["text_output"] == [native.results[0].hypotheses[0].text]


async def test_metadata_and_configuration_tell_the_tensors() -> None:
    async with serving() as served:
        stub = make_stub(served.channel)
        server = await stub.ServerMetadata(pb.ServerMetadataRequest())
        model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="pencil", version="0123456789ab"))
        config = (await stub.ModelConfig(pb.ModelConfigRequest(name="pencil"))).config
    assert (server.name, list(server.extensions)) == ("seqserve", ["parameters", "model_configuration"])
    assert server.version
    assert (model.name, list(model.versions), model.platform) == ("pencil", ["0123456789ab"], "onnxruntime_onnx")
    inputs = [("text_input", "BYTES", [-1]), ("stream", "BOOL", [1]), ("sampling_parameters", "BYTES", [1])]
    assert [(each.name, each.datatype, list(each.shape)) for each in model.inputs] == inputs
    assert {each.name: each.datatype for each in model.outputs} == OUTPUTS
    assert [(each.name, each.optional, list(each.dims)) for each in config.input] == [
        (name, name != "text_input", lengths) for name, _, lengths in inputs
    ]
    assert [each.data_type for each in config.output] == [model_metadata._TYPES[kind] for kind in OUTPUTS.values()]
    assert (config.max_batch_size, config.model_transaction_policy.decoupled) == (0, True)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(("name", "version"), [("other", ""), ("pencil", "2")])
async def test_an_unknown_model_or_version_is_not_found(method: str, name: str, version: str) -> None:
    async with serving() as served:
        if method == "ModelInfer":
            request: Any = infer("c d", model=name)
            request.model_version = version
        else:
            request = getattr(pb, f"{method}Request")(name=name, version=version)
        error = await refusal(getattr(make_stub(served.channel), method)(request))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert "pencil" in error.message


async def test_ready_means_that_requests_are_answered() -> None:
    loading, loaded, leave = threading.Event(), threading.Event(), asyncio.Event()
    config, engine, up = make_config(port=_free_port()), ArithmeticEngine(), asyncio.Event()

    def load(given: ServerConfig) -> ServedModel:
        loading.set()
        assert loaded.wait(30)
        return make_model(given, engine)

    async def serve() -> None:
        async with running_server(config, load):
            up.set()
            await leave.wait()

    async def told(stub: Any) -> tuple[bool, bool, bool]:
        live = await stub.ServerLive(pb.ServerLiveRequest())
        ready = await stub.ServerReady(pb.ServerReadyRequest())
        return live.live, ready.ready, (await stub.ModelReady(pb.ModelReadyRequest(name="pencil"))).ready

    server = asyncio.ensure_future(serve())
    try:
        await asyncio.to_thread(loading.wait, 30)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{config.port}") as channel:
            stub = make_stub(channel)
            assert await told(stub) == (True, False, False)
            error = await refusal(stub.ModelInfer(infer("c d")))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
            loaded.set()
            await up.wait()
            assert await told(stub) == (True, True, True)
            health = await make_health(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            assert health.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        loaded.set()
        leave.set()
        await server
    assert pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == SERVICE_NAME


async def test_what_the_protocol_has_and_this_server_has_not_is_unimplemented() -> None:
    async with serving() as served:
        call: Any = served.channel.unary_unary(f"/{SERVICE_NAME}/ModelStatistics")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_and_streams_are_counted_from_zero() -> None:
    labels = {"grpc_service": SERVICE_NAME, "grpc_code": "OK"}
    async with serving() as served:
        stub, before = make_stub(served.channel), await scrape(served)
        await stub.ModelInfer(infer("c d"))
        await answers_to(stub, infer("c d"), infer("a"), infer(""), infer("c", best_of=2))
        after = await scrape(served)
    assert after.value("seqserve_requests_rejected_total", reason="INVALID_FIELD") == 2
    for method, kind in (("ModelInfer", "unary"), ("ModelStreamInfer", "bidi_stream"), ("ModelConfig", "unary")):
        counts = [page.value("grpc_server_handled_total", grpc_method=method, grpc_type=kind, **labels)
                  for page in (before, after)]
        assert counts == [0, method != "ModelConfig"]


async def test_it_can_be_switched_off() -> None:
    async with serving(open_inference=False) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await make_stub(served.channel).ServerLive(pb.ServerLiveRequest())
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_tenant_and_priority_are_those_of_the_native_service() -> None:
    async with serving() as served:
        stub = make_stub(served.channel)
        error = await refusal(stub.ModelInfer(infer("c d"), metadata=[("x-tenant", "a"), ("x-tenant", "b")]))
        wrong = await refusal(stub.ModelInfer(infer("c d", sampling='{"priority": 1000000}')))
        response = await stub.ModelInfer(
            infer("c d", sampling='{"priority": 3}', priority=1), metadata=[("x-tenant", "a")]
        )
    assert error.field == "metadata.x-tenant"
    assert wrong.field == "sampling_parameters.priority"
    assert wrong.message.startswith("sampling_parameters.priority: 1000000 is out")
    assert tensors_of(response) == USUAL
