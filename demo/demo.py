"""Serve the demo bundle, translate through the gRPC client, and read the latencies back from the server.

    make demo        exports demo/en-de first, when the bundle is missing or older than what it is made from
"""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from histograms import Metrics, parse_metrics
from seqserve_client import Client

SENTENCES = [
    "A man is riding a horse.",
    "Two dogs play in the snow.",
    "A woman in a red dress is dancing on a stage.",
    "Three children are sitting at a table and eating.",
    "A group of people is standing in front of a building.",
]
STREAMED = "A little girl in a blue shirt is climbing a tree in the park."

BEAMS, SHOWN = 4, 3

CALLERS, CALLS = 16, 320
READY_SECONDS, STOP_SECONDS = 60, 20

LATENCIES = {
    "queue": "seqserve_request_queue_seconds",
    "encode": "seqserve_encode_seconds",
    "time to first token": "seqserve_time_to_first_token_seconds",
    "between tokens": "seqserve_inter_token_seconds",
    "decode step": "seqserve_decode_step_seconds",
    "end to end": "seqserve_request_duration_seconds",
}


@contextmanager
def running_server(bundle: Path, log: Path) -> Iterator[dict[str, str]]:
    """Start ``seqserve serve`` on free ports and yield its ready line as a mapping; stop it whatever happens.

    Its output goes to a file and not to a pipe: nobody would empty the pipe while the demo is busy.
    """
    program = str(Path(sys.executable).with_name("seqserve"))
    command = [program, "serve", str(bundle), "--port", "0", "--metrics-port", "0"]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield wait_until_ready(server, log)
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """Fields of the line ``ready grpc=HOST:PORT metrics=HOST:PORT models=NAME``."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        ended = server.poll() is not None
        output = log.read_text(encoding="utf-8", errors="replace")
        for line in output.splitlines(keepends=True):
            if line.startswith("ready ") and line.endswith("\n"):
                return dict(field.split("=", 1) for field in line.split()[1:])
        if ended:
            raise SystemExit(f"the server ended with exit code {server.returncode} before it was ready:\n{output}")
        time.sleep(0.05)
    raise SystemExit(f"the server was not ready after {READY_SECONDS} s; it printed:\n{output}")


def translate(client: Client) -> None:
    """One unary call with several sentences, one sentence token by token, and the same with beam search."""
    print("\nOne call, several sentences:")
    for source, result in zip(SENTENCES, client.generate(SENTENCES), strict=True):
        print(f"  {source}\n    -> {result.text}")
    print(f"\nStreamed:\n  {STREAMED}\n    -> ", end="", flush=True)
    for chunk in client.stream(STREAMED):
        print(chunk.text, end="|" if chunk.text else "", flush=True)
    print(f"\n\nBeam search, streamed as far as all {BEAMS} hypotheses agree:\n    -> ", end="", flush=True)
    for chunk in client.stream(STREAMED, beam_size=BEAMS):
        print(chunk.text, end="|" if chunk.text else "", flush=True)
    print(f"\nand the best {SHOWN} of them, with their scores:")
    for hypothesis in client.generate([STREAMED], beam_size=BEAMS, num_hypotheses=SHOWN)[0].hypotheses:
        print(f"    {hypothesis.score:6.3f}  {hypothesis.text}")


def translate_at_once(client: Client) -> None:
    """Many callers with a sentence each, so that the server has a batch to decode and the latencies mean something."""
    # Every fourth with beams, in the same batch as the others.
    calls = [(SENTENCES[index % len(SENTENCES)], BEAMS if index % 4 == 0 else 1) for index in range(CALLS)]
    expected = {
        (source, beams): result.text
        for beams in (1, BEAMS)
        for source, result in zip(SENTENCES, client.generate(SENTENCES, beam_size=beams), strict=True)
    }

    def call(source: str, beams: int) -> str:
        return client.generate([source], beam_size=beams)[0].text

    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        texts = list(callers.map(lambda asked: call(*asked), calls))
    seconds = time.perf_counter() - started
    same = sum(text == expected[asked] for asked, text in zip(calls, texts, strict=True))
    print(f"\n{CALLS} calls from {CALLERS} callers, a quarter of them with beams: {CALLS / seconds:.0f} sentences/s, "
          f"{same} of {CALLS} word for word as alone")


def scrape(address: str) -> Metrics:
    """Read the server's metrics page."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        return parse_metrics(response.read().decode())


def print_latencies(metrics: Metrics, seconds: float) -> None:
    """The server's own view of what it just did; percentiles are interpolated within histogram buckets."""
    print(f"\n{'server metrics, ms':<22}{'count':>8}{'mean':>9}{'p50':>9}{'p90':>9}{'p99':>9}")
    for title, name in LATENCIES.items():
        histogram = metrics.histograms[name]
        cells = [histogram.mean, *(histogram.quantile(fraction) for fraction in (0.5, 0.9, 0.99))]
        print(f"{title:<22}{histogram.count:>8.0f}" + "".join(f"{1000 * cell:>9.2f}" for cell in cells))
    tokens = metrics.values["seqserve_output_tokens_total"]
    rows = metrics.histograms["seqserve_batch_rows"].mean
    print(f"{tokens:.0f} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s; {rows:.1f} rows in a mean step")


def main(bundle: Path) -> None:
    """The whole demonstration."""
    print(f"Starting the server with {bundle} ...", flush=True)
    with running_server(bundle, bundle.with_name("demo-server.log")) as ready:
        print(f"Ready: gRPC on {ready['grpc']}, metrics on {ready['metrics']}, model {ready['models']}")
        started = time.perf_counter()
        with Client(ready["grpc"], timeout=60) as client:
            translate(client)
            translate_at_once(client)
        print_latencies(scrape(ready["metrics"]), time.perf_counter() - started)
    print("\nServer stopped.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
