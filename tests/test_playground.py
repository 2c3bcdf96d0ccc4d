"""The playground's process: what it answers, whom it lets in, and that it listens on loopback only."""

import asyncio
import contextlib
import html.parser
import itertools
import json
import signal
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from browsing import playground
from cli_process import start
from fake_server import FakeServer, aborting
from pencil import BEST_FIRST
from seqserve_cli.exits import CommandError
from seqserve_cli.main import main
from seqserve_cli.playground import metrics_target
from seqserve_client import AsyncClient, Unavailable
from seqserve_playground import web_server
from seqserve_playground.application import STATIC, Handlers, application
from seqserve_playground.guard import MAX_BODY_BYTES, SECURITY_HEADERS
from seqserve_playground.live_metrics import LiveMetrics
from serving import PENCIL_IDS, serving

HERE = "http://127.0.0.1:7860"


@contextlib.asynccontextmanager
async def asking(target: str, metrics: LiveMetrics | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """Requests to the application, without a socket."""
    async with AsyncClient(target, timeout=20) as client:
        app = application(Handlers(client, target, metrics or LiveMetrics("127.0.0.1:1")))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HERE) as web:
            yield web


@pytest.fixture
async def web(server: FakeServer) -> AsyncIterator[httpx2.AsyncClient]:
    async with asking(server.target) as found:
        yield found


def lines(response: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_an_answer_comes_as_lines_and_its_last_holds_all_of_it(web: httpx2.AsyncClient) -> None:
    found = await web.post("/api/stream", json={"text": "two dogs", "options": {"return_alignment": True}})
    assert found.headers["content-type"] == "application/x-ndjson"
    sent, first, second, last = lines(found)
    assert sent == {"type": "sent"}
    assert (first["text"], second["text"], second["token_ids"]) == ("TWO", " DOGS", [4])
    best = last["result"]["hypotheses"][0]
    assert (best["text"], last["result"]["finish_reason"]) == ("TWO DOGS", "eos")
    assert last["result"]["source_tokens"] == ["two", "dogs", "</s>"]
    assert len(best["alignment"]) == 2


async def test_a_stream_that_fails_says_why_in_its_last_line(web: httpx2.AsyncClient, server: FakeServer) -> None:
    *_, last = lines(await web.post("/api/stream", json={"text": "long story"}))
    assert last["error"]["reason"] == "INPUT_TOO_LONG"
    assert (last["error"]["field"], last["error"]["code"]) == ("input", "INVALID_ARGUMENT")
    assert "512" in last["error"]["message"]


async def test_an_answer_in_one_piece_and_its_errors_have_a_status(
    web: httpx2.AsyncClient, server: FakeServer
) -> None:
    found = await web.post("/api/generate", json={"text": "two dogs", "options": {"num_hypotheses": 2}})
    assert [each["text"] for each in found.json()["hypotheses"]] == ["TWO DOGS", "TWO"]
    missing = await web.post("/api/generate", json={"text": "two dogs", "model": "lower-case"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
    import grpc

    server.servicer.before = aborting(grpc.StatusCode.INTERNAL, "broken")
    broken = await web.post("/api/generate", json={"text": "two dogs"})
    assert (broken.status_code, broken.json()["error"]["message"]) == (502, "broken")


async def test_a_target_is_scored_with_the_options_that_scoring_has(
    web: httpx2.AsyncClient, server: FakeServer
) -> None:
    body = {"text": "two dogs", "target_ids": [4], "options": {"return_alignment": True, "beam_size": 4}}
    found = (await web.post("/api/score", json=body)).json()
    assert (found["token_log_probs"], found["alignment"]) == ([-1.0, -0.5], [[1.0, 0.0, 0.0]])
    assert list(server.servicer.calls[-1].pairs[0].target.token_ids.ids) == [4]


async def test_seeds_of_64_bits_and_ids_in_place_of_texts_arrive_whole(
    web: httpx2.AsyncClient, server: FakeServer
) -> None:
    body = {"token_ids": [5, 17], "model": "capitals", "options": {"seed": "18446744073709551615"}}
    *_, last = lines(await web.post("/api/stream", json=body))
    assert last["result"]["hypotheses"][0]["token_ids"] == [6, 18]
    assert server.servicer.calls[-1].options.seed == 2**64 - 1


@pytest.mark.parametrize(("body", "said"), [
    (b"{", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "object"), (b"{}", "exactly one"),
    (b'{"text": "a", "token_ids": [1]}', "exactly one"), (b'{"text": 1}', "text: must be a string"),
    (b'{"token_ids": [true]}', "token_ids: must be a list of integers"), (b'{"text": "a", "model": 1}', "model"),
    (b'{"text": "a", "options": []}', "options: must be an object"), (b'{"text": "a", "secret": 1}', "unknown field"),
    (b'{"text": "a", "options": {"beam": 4}}', "unknown option 'beam'"),
    (b'{"text": "a", "options": {"beam_size": 1.5}}', "options.beam_size"),
    (b'{"text": "a", "options": {"beam_size": 99999999999}}', "options.beam_size"),
    (b'{"text": "a", "options": {"seed": "' + b"9" * 5000 + b'"}}', "options.seed"),
    (b'{"text": "\\ud800"}', "input.text"), (b"\xff", "not JSON"),
])
@pytest.mark.parametrize("path", ["stream", "generate"])
async def test_a_bad_request_is_refused_with_the_field(
    web: httpx2.AsyncClient, server: FakeServer, body: bytes, said: str, path: str
) -> None:
    found = await web.post(f"/api/{path}", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400
    assert said.removeprefix("input.") in found.json()["error"]["message"]
    assert server.servicer.calls == []


async def test_the_status_is_told_with_and_without_a_server(web: httpx2.AsyncClient, server: FakeServer) -> None:
    there = (await web.get("/api/status")).json()
    assert (there["serving"], there["target"], there["models"][0]["name"]) == (True, server.target, "capitals")
    async with asking("127.0.0.1:1") as other:
        away = await other.get("/api/status")
    assert (away.status_code, away.json()["serving"], away.json()["error"]["code"]) == (200, False, "UNAVAILABLE")


@pytest.mark.parametrize(("method", "headers", "status"), [
    ("GET", {"host": "evil.example:7860"}, 421), ("GET", {"host": "127.0.0.1.evil.example"}, 421),
    ("GET", {"host": ""}, 421), ("GET", {"host": "[::1]:7860"}, 200), ("GET", {"host": "LOCALHOST"}, 200),
    ("GET", {"sec-fetch-site": "cross-site"}, 200),  # a link on another page may lead here
    ("POST", {"origin": "http://evil.example"}, 403), ("POST", {"origin": "null"}, 403),
    ("POST", {"origin": "http://127.0.0.1:8000"}, 403),  # another port of this machine is another page
    ("POST", {"origin": "https://127.0.0.1:7860"}, 403), ("POST", {"origin": HERE}, 200), ("POST", {}, 200),
    ("POST", {"sec-fetch-site": "cross-site"}, 403), ("POST", {"sec-fetch-site": "same-site"}, 403),
    ("POST", {"content-type": "text/plain"}, 415), ("OPTIONS", {"origin": "http://evil.example"}, 405),
    ("PUT", {}, 405),
])
async def test_nobody_asks_but_a_page_of_this_machine(
    web: httpx2.AsyncClient, server: FakeServer, method: str, headers: dict[str, str], status: int
) -> None:
    path = "/api/generate" if method == "POST" else "/api/status"
    given = {"content-type": "application/json", **headers}
    found = await web.request(method, path, content=b'{"text": "two dogs"}', headers=given)
    assert found.status_code == status
    assert len(server.servicer.calls) == (method == "POST" and status == 200)
    assert {name: found.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert not [name for name in found.headers if name.startswith("access-control")]


async def test_a_body_over_the_limit_is_read_and_refused_and_one_at_it_is_not(web: httpx2.AsyncClient) -> None:
    def body(size: int) -> bytes:
        return b'{"text": "long ' + b"a" * (size - 17) + b'"}'

    kind = {"content-type": "application/json"}
    assert len(body(MAX_BODY_BYTES)) == MAX_BODY_BYTES
    most = await web.post("/api/generate", content=body(MAX_BODY_BYTES), headers=kind)
    assert most.json()["error"]["reason"] == "INPUT_TOO_LONG"  # the server's word
    more = await web.post("/api/generate", content=body(MAX_BODY_BYTES + 1), headers=kind)
    assert (more.status_code, more.json()["error"]["reason"]) == (413, "MESSAGE_TOO_LARGE")
    assert str(MAX_BODY_BYTES) in more.json()["error"]["message"]


class References(html.parser.HTMLParser):
    """What a page names, and what its policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.named += [str(given[name]) for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] * (tag == "style" or (tag == "script" and "src" not in given))


async def test_the_page_is_whole_and_loads_nothing_from_elsewhere(web: httpx2.AsyncClient) -> None:
    page = References()
    page.feed((await web.get("/")).text)
    assert page.inline == []
    assert len(page.named) == 3
    for path in page.named:
        assert path.startswith("/static/")
        assert (await web.get(path)).status_code == 200
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text.replace("`http://", ""), file.name
        assert "innerHTML" not in text
        modules = [line.rpartition('"./')[2].rstrip('";') for line in text.splitlines() if ' from "' in line]
        assert [name for name in modules if not (STATIC / name).is_file()] == []
    assert (await web.get("/static/../guard.py")).status_code == 404
    assert (await web.get("/static/%2e%2e/guard.py")).status_code == 404


async def test_whoever_leaves_a_stream_cancels_the_call() -> None:
    async with serving() as served:
        served.engine.hold()
        async with playground(f"127.0.0.1:{served.server.port}") as address:
            port = int(address.rstrip("/").rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = b'{"text": "c d"}'
            writer.write(b"POST /api/stream HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                         b"content-length: %d\r\n\r\n%s" % (len(body), body))
            await reader.readuntil(b'"sent"}')
            await served.until_stepping()
            writer.close()
            await served.until_abandoned(1)
            served.engine.allow()
            await served.until(lambda: served.inside == 0)


async def test_alternatives_are_what_the_server_takes_behind_a_prefix() -> None:
    async with serving() as served, asking(f"127.0.0.1:{served.server.port}") as web:
        options = {"prefix": PENCIL_IDS[:2], "return_alternatives": True, "num_hypotheses": 3, "return_logprobs": True}
        found = (await web.post("/api/generate", json={"text": "c d", "options": options})).json()
    assert [each["token_ids"][2] for each in found["hypotheses"]] == [token for _, token in BEST_FIRST[27][:3]]
    assert all(each["token_ids"][:2] == PENCIL_IDS[:2] for each in found["hypotheses"])


async def test_metrics_of_a_server_are_told_and_their_absence_is() -> None:
    async with serving() as served:
        turns = itertools.count(step=10)  # seconds, so that every look is a scrape
        live = LiveMetrics(f"127.0.0.1:{served.server.metrics_port}", clock=lambda: float(next(turns)))
        async with asking(f"127.0.0.1:{served.server.port}", live) as web:
            await web.post("/api/generate", json={"text": "c d"})
            # The engine keeps its books after the answer has left.
            while (found := (await web.get("/api/metrics")).json())["running"]:
                await asyncio.sleep(0.01)
            assert found["requests"] == 1
    with pytest.raises(Unavailable):
        await LiveMetrics("127.0.0.1:1").record()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_it_listens_on_loopback_only(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="loopback"):
        web_server.listen(host, 0)
    assert main(["playground", "--host", host]) == 2
    assert "loopback" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "given", "address"), [
    ("127.0.0.1:50051", None, "127.0.0.1:9090"), ("dns:///translate.example:443", None, "translate.example:9090"),
    ("[::1]:50051", None, "[::1]:9090"), ("unix:/run/seqserve.sock", None, "127.0.0.1:9090"),
    ("a:1", "b:2", "b:2"),
])
def test_metrics_are_looked_for_beside_the_server(target: str, given: str | None, address: str) -> None:
    assert metrics_target(target, given) == address
    with pytest.raises(CommandError):
        metrics_target(target, "http://b:2/metrics")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_says_where_it_listens_and_ends_by_signal(server: FakeServer, number: int, code: int) -> None:
    process = start("playground", "--target", server.target, "--port", "0")
    watch = threading.Timer(60, process.kill)
    watch.start()
    try:
        ready, page_address, target = process.stdout.readline().split()
        assert (ready, target) == ("ready", f"target={server.target}")
        with urllib.request.urlopen(page_address.removeprefix("playground="), timeout=20) as page:
            assert b"Seqserve playground" in page.read()
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
        assert (process.returncode, out, error) == (code, "", "")
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_a_failure_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with web_server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        assert main(["playground", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_the_wheel_takes_the_pages_files() -> None:
    root = Path(__file__).resolve().parent.parent
    assert '"client/seqserve_playground",' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert {file.suffix for file in STATIC.iterdir()} == {".html", ".css", ".js", ".svg"}
