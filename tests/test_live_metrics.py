"""What the playground makes of two scrapes of a server's metrics."""

from seqserve_client.server_metrics import Page
from seqserve_playground.live_metrics import LiveMetrics


def page_of(tokens: float, requests: float) -> Page:
    return Page({
        ("seqserve_output_tokens_total", ()): tokens, ("seqserve_requests_running", ()): 3.0,
        ("seqserve_requests_total", (("finish_reason", "eos"),)): requests,
    })


async def test_metrics_are_scraped_at_most_once_a_second_and_begin_anew_with_another_server() -> None:
    now, pages = [0.0], iter([page_of(100, 1), page_of(150, 3), page_of(400, 5), page_of(10, 1)])
    live = LiveMetrics("a:1", lambda url, timeout: next(pages), lambda: now[0])
    first = await live.record()
    assert (first["running"], first["tokens_per_second"], first["series"]) == (3.0, None, [])
    assert await live.record() == first
    now[0] = 2.0
    second = await live.record()
    assert (second["tokens_per_second"], second["requests_per_second"], second["series"]) == (25.0, 1.0, [25.0])
    now[0] = 11.0  # the first page is out of the window
    third = await live.record()
    assert (third["seconds"], third["tokens_per_second"]) == (9.0, 250 / 9)
    now[0] = 13.0
    assert (await live.record())["series"] == []
