"""What docs/operations.md says of metrics, against what a server under load gives to a scraper."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

import promtool
from arithmetic_engine import ArithmeticEngine
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from serving import ask, ask_stream, ids, serving

OPERATIONS = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
ROW = re.compile(r"\| `(?P<name>[a-z0-9_]+)` \| (?P<type>[a-z]+) \|(?P<labels>[^|]*)\|(?P<meaning>[^|]*)\|[^|]*\|")
# Labels whose values are few and ours: the table lists them.
LISTED = ("finish_reason", "reason")


@dataclass(frozen=True)
class Metric:
    """Of a table or of a page."""

    name: str
    kind: str
    labels: frozenset[str]


async def loaded_page() -> str:
    """A scrape of a server that did everything it can."""
    engine = ArithmeticEngine()
    engine.poison = 27
    async with serving(engine, max_waiting=2, max_rows=2) as served:
        await asyncio.gather(*(served.stub.Generate(ask("c d")) for _ in range(3)))
        await drained(served.stub.GenerateStream(ask_stream("c d")))
        await served.stub.Score(pb.ScoreRequest(pairs=[
            pb.ScorePair(source=ids(5), target=pb.Target(token_ids=pb.TokenIds(ids=[14])))
        ]))
        for request in (ask(*["c d"] * 9), ask("c", model="other"), ask(ids(27)), ask()):
            await refusal(served.stub.Generate(request))
        await served.until(lambda: served.inside == 0 and engine.occupied == [])

        def read() -> str:
            with urlopen(f"http://127.0.0.1:{served.server.metrics_port}/metrics") as response:
                return str(response.read().decode())

        return await asyncio.to_thread(read)


def on_page(page: str) -> set[Metric]:
    found = set()
    for family in text_string_to_metric_families(page):
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.add(Metric(name, family.type, labels))
    return found


def rows(text: str) -> Iterator[re.Match[str]]:
    yield from ROW.finditer(text)


def in_table(text: str) -> set[Metric]:
    found = [Metric(row["name"], row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"]))) for row in rows(text)]
    assert len(found) == len({metric.name for metric in found})
    return set(found)


@pytest.fixture(scope="module")
def page() -> str:
    return asyncio.run(loaded_page())


@pytest.fixture(scope="module")
def text() -> str:
    return OPERATIONS.read_text(encoding="utf-8")


def test_the_table_and_a_loaded_servers_page_have_the_same_metrics(page: str, text: str) -> None:
    assert in_table(text) == on_page(page)


@pytest.mark.parametrize(("before", "after"), [
    ("| `seqserve_ready` | gauge |", "| `seqserve_ready` | counter |"),
    ("| `seqserve_requests_waiting` | gauge | `model_name` |", "| `seqserve_requests_waiting` | gauge | |"),
    ("| `process_open_fds` |", "| `process_open_files` |"),
])
def test_a_table_that_is_wrong_in_one_place_is_found(page: str, text: str, before: str, after: str) -> None:
    assert before in text
    assert in_table(text.replace(before, after)) != on_page(page)


def test_every_value_of_our_labels_is_in_the_table_and_every_metric_has_a_meaning(page: str, text: str) -> None:
    meanings = {row["name"]: row["meaning"] for row in rows(text)}
    assert all(meaning.strip() for meaning in meanings.values())
    checked = 0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            for label in LISTED:
                if label in sample.labels:
                    assert f"`{sample.labels[label]}`" in meanings[sample.name]
                    checked += 1
    assert checked > 10


def test_a_linter_of_metrics_has_nothing_to_say(page: str) -> None:
    tool = promtool.find("promtool")
    if tool is None:
        pytest.skip(promtool.MISSING)
    assert promtool.lint(tool, page) == ""
    assert "counter metrics should have" in promtool.lint(tool, "# TYPE a counter\na 1\n")


def test_refusals_are_counted_by_reason_and_each_input_is_one(page: str) -> None:
    values = {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(page) if family.name == "seqserve_requests_rejected"
        for sample in family.samples
    }
    assert {reason: value for reason, value in values.items() if value} == {
        "QUEUE_FULL": 9, "MODEL_NOT_FOUND": 1, "INVALID_FIELD": 1,
    }


def test_what_each_file_says_of_flags_is_true(text: str) -> None:
    from seqserve_server.config import settings

    flags = {f"--{entry.name.replace('_', '-')}" for entry in settings()}
    named = set(re.findall(r"--[a-z][a-z-]+", text))
    assert named - flags == set()
