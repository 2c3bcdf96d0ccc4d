"""Ask a real Prometheus every query of the dashboard while it scrapes a loaded server, and draw the panels.

    .venv/bin/python bench/dashboard.py var/demo-bundle [--seconds 60]

Fails on a query that is an error or finds nothing. The load is a wave of translations, some streamed, with scores,
wrong requests and a moment of overload in it, so that every panel has something to show. The picture goes to
docs/images/dashboard.png. Prometheus is looked for as deploy/promtool.py says; it listens on this machine only.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

from dashboard_plot import Line, draw
from machine import facts
from processes import running_server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "deploy"))

import monitoring_files  # noqa: E402
import promtool  # noqa: E402
from seqserve_client import AsyncClient  # noqa: E402
from seqserve_client.errors import SeqserveError  # noqa: E402

PORT = 19099
INTERVAL = 1  # seconds between scrapes
# What Grafana would put in place of its variables.
VARIABLES = {"$namespace": ".*", "$pod": ".*", "$model": ".*", "$__rate_interval": "10s"}
SENTENCES = (
    "A man is riding a horse.", "Two dogs play in the snow.", "A woman in a red coat is walking down the street.",
    "Children are playing football.", "A young boy wearing a blue shirt jumps into a swimming pool next to his father.",
)


async def load(target: str, seconds: float, seed: int = 0) -> int:
    """Requests in a wave of arrivals; returns how many were refused, as they were meant to be."""
    random_numbers, begun, calls = random.Random(seed), time.monotonic(), set()
    refused = 0

    async def expected_to_fail(call: Awaitable[object]) -> None:
        nonlocal refused
        try:
            await call
        except SeqserveError:
            refused += 1

    async with AsyncClient(target, max_attempts=1, timeout=30) as client:
        async def streamed(text: str) -> None:
            async for _ in client.stream(text):
                pass

        def call(kind: float, text: str, overload: bool) -> Awaitable[object]:
            if kind < 0.3:
                return streamed(text)
            if kind < 0.36:
                return client.score([text], ["Ein Mann reitet auf einem Pferd."])
            if kind < 0.4:
                return client.generate([text], model="nothing")
            if kind < 0.45 and overload:
                return client.generate([" ".join(SENTENCES)] * 50, beam_size=4)
            return client.generate([text])

        while (now := time.monotonic() - begun) < seconds:
            overload = seconds / 3 < now < seconds / 2
            wanted = call(random_numbers.random(), random_numbers.choice(SENTENCES), overload)
            calls.add(asyncio.ensure_future(expected_to_fail(wanted)))
            await asyncio.sleep(random_numbers.expovariate(25 + 20 * math.sin(6 * now / seconds)))
        await asyncio.gather(*calls)
    return refused


@contextlib.contextmanager
def prometheus(metrics: str) -> Iterator[None]:
    """Prometheus with our rules, scraping one server as if it were a pod."""
    program = promtool.found_or_fetched("prometheus")
    if program is None:
        raise SystemExit("prometheus is not installed, and apt could not fetch it")
    settings = {
        "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
        "rule_files": [str(promtool.RULES)],
        "scrape_configs": [{
            "job_name": "seqserve",
            "static_configs": [{"targets": [metrics], "labels": {"namespace": "bench", "pod": "seqserve-0"}}],
        }],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prometheus.yml")
        path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        process = subprocess.Popen([
            str(program), f"--config.file={path}", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=error",
        ])
        try:
            _until_ready(process)
            yield
        finally:
            process.terminate()
            process.wait(20)


def _until_ready(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/-/ready") as response:
            if response.status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"prometheus ended with {process.returncode}")


def ask(expression: str, begun: float, ended: float) -> list[dict[str, Any]]:
    """Series of an expression over a time, by the HTTP API.

    Raises:
        ValueError: with what Prometheus says of the expression.
    """
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    query = urllib.parse.urlencode({"query": expression, "start": begun, "end": ended, "step": INTERVAL})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/query_range?{query}") as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from None
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series


def lines(expression: str, legend: str, begun: float, ended: float) -> list[Line]:
    """What a panel shows of a query; raises ``ValueError`` where that is nothing."""
    found = []
    for series in ask(expression, begun, ended):
        name = legend
        for label, value in series["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", value)
        points = [(float(moment) - begun, float(value)) for moment, value in series["values"]]
        found.append(Line(name, [point for point in points if math.isfinite(point[1])]))
    if not any(line.points for line in found):
        raise ValueError("finds nothing")
    return [line for line in found if line.points]


def collect(begun: float, ended: float) -> tuple[dict[str, list[Line]], list[str]]:
    """Lines by the panels' titles, and what is wrong with which query."""
    panels: dict[str, list[Line]] = {}
    wrong = []
    for row in monitoring_files.ROWS:
        for panel in row.panels:
            panels[panel.title] = []
            for expression, legend in panel.queries:
                try:
                    panels[panel.title] += lines(expression, legend, begun, ended)
                except ValueError as error:
                    wrong.append(f"{panel.title}: {expression}: {error}")
    return panels, wrong


def main() -> int:
    """Print what is wrong, draw the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/dashboard.png")
    given = parser.parse_args()
    flags = ("--max-waiting", "60", "--max-rows", "32", "--encoder-cache-bytes", str(2**20))
    with running_server(given.bundle, *flags) as server, prometheus(server.metrics):
        begun = time.time()
        refused = asyncio.run(load(server.target, given.seconds))
        time.sleep(2 * INTERVAL)
        panels, wrong = collect(begun, time.time())
    draw(monitoring_files.ROWS, panels, given.output)
    count = len(monitoring_files.queries())
    print(f"{count - len(wrong)} of {count} queries have an answer; {refused} requests were refused. "
          f"Machine: {'; '.join(facts().values())}.")
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
