"""Deliberately broken variants of the Open Inference Protocol's service: the tests have to notice each of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

import test_bounds
import test_open_inference as whole_answers
import test_open_inference_bad_input as bad_input
import test_open_inference_stream as streams
from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import bounds, inference, multiplex, parameters, service, tensors
from seqserve_server.open_inference import open_inference_pb2 as pb

Check = Callable[[], Coroutine[Any, Any, None]]
Plant = Callable[[pytest.MonkeyPatch], None]


def replaces_bad_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensors, "_text", lambda element, name: element.decode(errors="replace"))


def leaves_bytes_unread(patch: pytest.MonkeyPatch) -> None:
    split = tensors._split

    def careless(raw: bytes, count: int, name: str) -> list[bytes]:
        while True:  # drops what is left behind the elements
            try:
                return split(raw, count, name)
            except InvalidRequest as error:
                if "left behind" not in error.message:
                    raise
                raw = raw[:-1]

    patch.setattr(tensors, "_split", careless)


def knows_any_tensor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inference, "SWITCHES", (*inference.SWITCHES, "image"))


def answers_typed(patch: pytest.MonkeyPatch) -> None:
    add = tensors.add_tensor
    patch.setattr(inference, "add_tensor", lambda *given, raw: add(*given, raw=False))


def forgets_the_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inference, "empty_response", lambda asked, model: pb.ModelInferResponse(
        model_name=model.description.name, model_version=model.version
    ))


def says_overload_as_the_native_service(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "OVERLOADED", 8)


def never_says_final(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "FINAL", "final")


def ends_the_stream_with_the_request(patch: pytest.MonkeyPatch) -> None:
    async def answer(self: multiplex.Multiplex, request: pb.ModelInferRequest) -> None:
        await self._respond(request, self._send)

    patch.setattr(multiplex.Multiplex, "_answer", answer)


def outlives_the_stream(patch: pytest.MonkeyPatch) -> None:
    async def run(self: multiplex.Multiplex, requests: Any) -> None:
        tasks = [asyncio.ensure_future(self._answer(request)) async for request in requests]
        await asyncio.wait(tasks)

    patch.setattr(multiplex.Multiplex, "run", run)


def reads_on_and_on(patch: pytest.MonkeyPatch) -> None:
    async def run(self: multiplex.Multiplex, requests: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                tasks.create_task(self._answer(request))

    patch.setattr(multiplex.Multiplex, "run", run)


def takes_names_of_any_length(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bounds, "MAX_NAME_BYTES", 1 << 20)


def takes_texts_of_any_length(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bounds, "MAX_VALUE_BYTES", 1 << 30)


def looks_at_known_parameters_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parameters, "check_parameters", lambda given, field: None)


def looks_at_parameters_of_requests_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensors, "check_parameters", lambda given, field: None)


def on_a_bound(field: str) -> Check:
    return lambda: test_bounds.test_what_is_beyond_a_bound_of_open_inference_is_refused_by_name(field)


async def on_a_stream_that_goes() -> None:
    log: Any = Silent()
    await streams.test_a_stream_that_goes_away_takes_its_requests_with_it("cancel", log)


class Silent:
    """In place of the log."""

    text = ""

    def set_level(self, level: int) -> None:
        del level


async def on_more_than_may_be_open() -> None:
    with pytest.MonkeyPatch.context() as patch:
        await streams.test_no_more_requests_are_read_than_one_stream_may_have_open(patch)


BUGS: list[tuple[Plant, Check]] = [
    (replaces_bad_bytes, bad_input.test_each_is_refused_by_name_and_whoever_runs_beside_it_is_unchanged),
    (leaves_bytes_unread, bad_input.test_each_is_refused_by_name_and_whoever_runs_beside_it_is_unchanged),
    (knows_any_tensor, bad_input.test_each_is_refused_by_name_and_whoever_runs_beside_it_is_unchanged),
    (answers_typed, lambda: whole_answers.test_a_text_is_answered_in_its_shape_and_as_it_was_packed(True, [1])),
    (forgets_the_id, streams.test_requests_of_one_stream_run_side_by_side_and_are_matched_by_id),
    (says_overload_as_the_native_service, streams.test_a_full_queue_is_unavailable_here_in_calls_and_in_streams),
    (never_says_final, lambda: streams.test_parts_add_up_to_the_whole_answer(True)),
    (ends_the_stream_with_the_request, streams.test_an_error_ends_its_request_and_not_the_stream),
    (outlives_the_stream, on_a_stream_that_goes),
    (reads_on_and_on, on_more_than_may_be_open),
    (takes_names_of_any_length, on_a_bound("ModelInferRequest.InferInputTensor.name")),
    (takes_texts_of_any_length, on_a_bound("InferParameter.string_param")),
    (looks_at_known_parameters_only, on_a_bound("ModelInferRequest.ParametersEntry.key")),
    (looks_at_parameters_of_requests_only, on_a_bound("ModelInferRequest.InferInputTensor.parameters")),
    (looks_at_parameters_of_requests_only, on_a_bound("ModelInferRequest.InferRequestedOutputTensor.parameters")),
]


@pytest.mark.parametrize(("plant", "check"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
async def test_a_planted_bug_is_noticed(plant: Plant, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    missed = (AssertionError, grpc.aio.AioRpcError, TimeoutError, BaseExceptionGroup, pytest.fail.Exception)
    with pytest.raises(missed):
        async with asyncio.timeout(5):  # what should have been refused waits for an engine that is held
            await check()


@pytest.mark.parametrize("check", [on_a_stream_that_goes, on_more_than_may_be_open])
async def test_without_a_bug_they_pass(check: Check) -> None:
    await check()
