"""What the server says of itself: pages made by hand, and one that a thread serves."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client import Unavailable
from seqserve_client.report import percentile
from seqserve_client.server_metrics import SETTLE_TRIES, Page, Watch, figures, quantile, scrape, settled


def page(times: int) -> str:
    """After so many times the same traffic: 3 calls that succeeded and 1 refused, 8 steps, 20 rows, 20 tokens."""
    return "\n".join([
        "# TYPE seqserve_requests counter",
        f'seqserve_requests_total{{model_name="a",finish_reason="eos"}} {2 * times}',
        f'seqserve_requests_total{{model_name="b",finish_reason="eos"}} {times}',
        'seqserve_requests_total{model_name="a",finish_reason="failed"} 0',
        "# TYPE grpc_server_handled counter",
        f'grpc_server_handled_total{{grpc_method="Generate",grpc_code="OK"}} {2 * times}',
        f'grpc_server_handled_total{{grpc_method="GenerateStream",grpc_code="OK"}} {times}',
        f'grpc_server_handled_total{{grpc_method="Generate",grpc_code="ResourceExhausted"}} {times}',
        "# TYPE seqserve_output_tokens counter",
        f'seqserve_output_tokens_total{{model_name="a"}} {20 * times}',
        "# TYPE seqserve_batch_rows histogram",
        f'seqserve_batch_rows_bucket{{le="+Inf"}} {8 * times}',
        f"seqserve_batch_rows_count {8 * times}",
        f"seqserve_batch_rows_sum {20 * times}",
        "# TYPE seqserve_request_queue_seconds histogram",
        f'seqserve_request_queue_seconds_bucket{{le="0.01"}} {2 * times}',
        f'seqserve_request_queue_seconds_bucket{{le="0.02"}} {3 * times}',
        f'seqserve_request_queue_seconds_bucket{{le="+Inf"}} {3 * times}',
        f"seqserve_request_queue_seconds_count {3 * times}",
        f"seqserve_request_queue_seconds_sum {0.03 * times}",
        "# TYPE seqserve_requests_waiting gauge",
        f"seqserve_requests_waiting {times}",
        "# TYPE seqserve_requests_running gauge",
        "seqserve_requests_running 2",
        "",
    ])


def test_a_page_is_settled_once_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [f"seqserve_requests_waiting {waiting}\nseqserve_requests_running {running}\n"
             for waiting, running in ((3, 2), (0, 1), (0, 0), (0, 0))]
    left = iter(pages)
    monkeypatch.setattr("seqserve_client.server_metrics.scrape", lambda url: Page.parsed(next(left)))
    assert settled("http://host/metrics") == Page.parsed(pages[2])
    assert list(left) == pages[3:]


def test_figures_are_of_what_happened_in_between() -> None:
    found = figures(Page.parsed(page(5)).since(Page.parsed(page(3))))
    assert found["requests_by_finish_reason"] == {"eos": 6}
    assert found["calls_by_code"] == {"OK": 6, "ResourceExhausted": 2}
    assert (found["output_tokens"], found["decode_steps"], found["mean_rows_per_step"]) == (40, 16, 2.5)
    assert found["mean_queue_ms"] == pytest.approx(10.0)
    assert found["p50_queue_ms"] == pytest.approx(7.5)  # 3 of 6, along a line to the 4 below 10 ms
    assert found["p99_queue_ms"] == pytest.approx(19.7)
    assert (found["mean_step_ms"], found["p50_step_ms"]) == (None, None)


def test_a_server_that_began_in_between_counts_from_nothing() -> None:
    assert figures(Page.parsed(page(2)).since(Page.parsed("")))["output_tokens"] == 40
    assert figures(Page.parsed(""))["mean_rows_per_step"] is None


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.sampled_from([1.0, 50.0, 99.0, 100.0]))
def test_a_quantile_is_in_the_bucket_of_the_exact_percentile(values: list[float], percent: float) -> None:
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0]
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in bounds}
    buckets[float("inf")] = float(len(values))
    found, exact = quantile(buckets, percent), percentile(sorted(values), percent)
    assert found is not None
    if exact > 8.0:
        assert found == 8.0
    else:
        above = next(bound for bound in bounds if exact <= bound)
        below = max([0.0, *(bound for bound in bounds if bound < above)])
        assert below <= found <= above


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({}, 50) is None
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 50) is None


@pytest.fixture
def address() -> Iterator[str]:
    """Of a page that grows with every scrape; the third scrape fails. Under /other there is another page."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal count
            if self.path == "/other":
                text = "<html>hello there</html>\n"
            elif self.path == "/exporter":
                text = "process_cpu_seconds_total 5\n"
            else:
                count += 1
                text = page(count)
            self.send_response(500 if count == 3 else 200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_a_watch_has_a_series_with_gaps_and_the_difference(address: str) -> None:
    with Watch(address, scrape(address), interval=0.01) as watch:
        while len(watch.series) < 3:
            time.sleep(0.01)
    seen = [record["waiting"] for record in watch.series]
    assert seen[:3] == [2, 4, 5]  # the first scrape came before, the third failed
    assert [record["output_tokens"] for record in watch.series[:3]] == [20, 60, 80]
    found = watch.result()
    assert found["output_tokens"] == 20 * (seen[-1] + SETTLE_TRIES - 1)  # what this server does never ends
    assert (found["peak_waiting"], found["peak_running"]) == (seen[-1], 2)
    assert found["series"] == watch.series


@pytest.mark.parametrize(
    ("path", "reason"), [("/other", ""), ("/exporter", "the page has none that begins with seqserve_")]
)
def test_another_page_is_no_metrics_page(address: str, path: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=f"no metrics at http.*{path}: {reason}"):
        scrape(address.replace("/metrics", path))


def test_an_address_without_a_page_is_unavailable(address: str) -> None:
    with pytest.raises(Unavailable, match=r"no metrics at http://127\.0\.0\.1:1/metrics"):
        scrape("http://127.0.0.1:1/metrics")
    for _ in range(2):
        scrape(address)
    with pytest.raises(Unavailable, match="500"):
        scrape(address)
