"""tritonclient and KServe's client, unmodified, in their own environment: what they say of this server.

They need another version of protobuf than a server may have, and cannot be in one process with each other.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from arithmetic_engine import ArithmeticEngine
from authority import Authority
from serving import PENCIL_TEXT, ask, serving
from test_cancellation import answered_alone
from test_metrics_scrape import scrape

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-oip" / "bin" / "python"
USUAL = {"text_output": [PENCIL_TEXT], "finish_reason": ["eos"], "num_input_tokens": [3], "num_output_tokens": [16]}

pytestmark = pytest.mark.skipif(
    not (PYTHON.parent.parent / ".installed").is_file(), reason="clients are not installed: make oip-clients"
)


async def run(script: str, port: int, case: str, *more: str) -> Any:
    """What a script in the other environment printed."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("client", "proto", "server"))
    process = await asyncio.create_subprocess_exec(
        str(PYTHON), str(ROOT / "tests" / script), f"127.0.0.1:{port}", case, *more,
        env={**os.environ, "PYTHONPATH": paths}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, error.decode()
    return json.loads(out)


async def test_triton_client_gets_whole_answers_metadata_and_errors() -> None:
    async with serving() as served:
        many = await served.stub.Generate(
            ask("c d", "a", beam_size=2, length_penalty=0.5, num_hypotheses=2)
        )
        drawn = await served.stub.Generate(ask("c d", max_new_tokens=4, temperature=0.5, seed=7))
        told = await run("oip_triton.py", served.server.port, "unary")
    assert [told.pop(name) for name in ("live", "ready", "model_ready", "decoupled")] == [True] * 4
    assert told.pop("server") == "seqserve"
    assert told.pop("inputs") == ["text_input", "stream", "sampling_parameters"]
    assert (told.pop("one"), told.pop("id")) == (USUAL, "seven")
    assert told.pop("many") == {
        "text_output": [[each.text for each in result.hypotheses] for result in many.results],
        "score": [[each.score for each in result.hypotheses] for result in many.results],
    }
    assert told.pop("other name") == [PENCIL_TEXT]
    assert told.pop("sample") == [drawn.results[0].hypotheses[0].text]
    code, message = told.pop("parameter")
    assert (code, message[:45]) == ("StatusCode.INVALID_ARGUMENT", "parameters.best_of: no such parameter; there ")
    assert told.pop("model") == ["StatusCode.NOT_FOUND", "model 'other' is not served here; served: pencil"]
    assert told == {"stream": PENCIL_TEXT, "empty last": True}


async def test_both_clients_get_in_by_tls_and_token_and_not_without(tmp_path: Path) -> None:
    authority, token = Authority(tmp_path), "a-token-of-24-characters"
    files, tokens = authority.issue(), tmp_path / "tokens"
    tokens.write_text(f"{token} tenant=own\n")
    async with serving(tls_cert=files.certificate, tls_key=files.key, auth_tokens_file=tokens) as served:
        tritons = await run("oip_triton.py", served.server.port, "secured", str(authority.file), token)
        kserves = await run("oip_kserve.py", served.server.port, "secured", str(authority.file), token)
    assert tritons == {
        "ready": True, "text": [PENCIL_TEXT], "stream": [PENCIL_TEXT],
        "without": ["StatusCode.UNAUTHENTICATED", "the call has no bearer token"],
        "tenant": ["StatusCode.PERMISSION_DENIED", "metadata.x-tenant: the call's token belongs to another tenant"],
    }
    assert kserves == {"ready": True, "text": [PENCIL_TEXT], "without": "UNAUTHENTICATED"}


async def test_triton_client_streams_several_requests_at_once() -> None:
    async with serving() as served:
        other = await served.stub.Generate(ask("a"))
        told = await run("oip_triton.py", served.server.port, "streams")
        assert served.inside == 0
    assert told["texts"] == {"0": PENCIL_TEXT, "1": other.results[0].hypotheses[0].text}
    assert sorted(told["final"]) == ["0", "1"]
    (error,) = told["errors"]
    assert error.startswith("INVALID_ARGUMENT: text_input[0]: empty")


async def test_a_stream_that_triton_client_cancels_leaves_nothing_behind() -> None:
    engine = ArithmeticEngine()
    async with serving(engine) as served:
        engine.hold()
        engine.allow(4)
        told = await run("oip_triton.py", served.server.port, "cancelled")
        inbox = served.server.models.servings[0].loop._inbox
        # Held after 4 of 16 steps, it can end by the cancel alone: seen between two steps, or waiting to be seen.
        await served.until(lambda: served.inside == 0 or any(isinstance(each, int) for each in inbox))
        engine.allow()
        await answered_alone(served)
    assert told["cancelled"]
    assert PENCIL_TEXT.startswith(told["first"])
    assert told["first"]


async def test_our_client_and_tritons_go_together_in_one_process() -> None:
    async with serving() as served:
        told = await run("oip_triton.py", served.server.port, "beside ours")
    assert told == {"text": PENCIL_TEXT, "clash": True}


async def test_kserves_client_gets_answers_and_errors() -> None:
    async with serving() as served:
        many = await served.stub.Generate(ask("c d", "a", beam_size=2, length_penalty=0.5))
        told = await run("oip_kserve.py", served.server.port, "calls")
    assert [told.pop(name) for name in ("live", "ready", "model_ready")] == [True] * 3
    assert (told.pop("one"), told.pop("id"), told.pop("model")) == (USUAL, "seven", "pencil")
    assert told.pop("many") == [result.hypotheses[0].text for result in many.results]
    assert told.pop("raw") == [PENCIL_TEXT]
    code, message = told.pop("parameter")
    assert (code, message[:38]) == ("INVALID_ARGUMENT", "parameters.best_of: no such parameter;")
    code, message = told.pop("empty")
    assert (code, message[:19]) == ("INVALID_ARGUMENT", "input-0[0]: empty o")
    assert told == {}


async def test_kserves_client_tries_a_full_server_again() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1) as served:
        engine.hold()
        inside = asyncio.ensure_future(served.stub.Generate(ask("c d", "c d")))
        await served.until(lambda: served.inside == 2)
        told = await run("oip_kserve.py", served.server.port, "refused")
        page = await scrape(served)
        engine.allow()
        await inside
    code, message = told["refused"]
    assert (code, message[:26]) == ("UNAVAILABLE", "1 requests do not fit: 0 o")
    assert page.value("grpc_server_handled_total", grpc_method="ModelInfer", grpc_code="Unavailable") == 3
