"""Names, labels and buckets of every metric, and the observer that the loop reports to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from seqserve_server.engine import Engine, Reuse
from seqserve_server.histogram import Histogram
from seqserve_server.loop import Observe, StepFacts
from seqserve_server.request import Event, Failed, Finished, PairScored, TokensChosen

# Supersets of the usual boundaries, so that they stay comparable, but starting where small models live.
SHORT = (
    0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)
LONG = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24,
    20.48, 40.96, 81.92,
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "seqserve_request_queue_seconds": ("From arrival until the encoder took the request.", LONG),
    "seqserve_encode_seconds": ("One encoder batch.", LONG),
    "seqserve_time_to_first_token_seconds": ("From arrival to the first token.", LONG),
    "seqserve_inter_token_seconds": ("Between two tokens of one request.", SHORT),
    "seqserve_decode_step_seconds": ("One decoder step over all running rows.", SHORT),
    "seqserve_decode_seconds": ("Of one request, from its encoder states to its last token.", LONG),
    "seqserve_time_per_output_token_seconds": ("Of one request, the mean time between two of its tokens.", SHORT),
    "seqserve_request_duration_seconds": ("From arrival to the last token, end to end in the server.", LONG),
    "seqserve_score_seconds": ("One pass over pairs to score.", LONG),
    "seqserve_request_input_tokens": ("Source tokens of one request, special tokens included.", TOKENS),
    "seqserve_request_output_tokens": ("Tokens of one request's best answer, the end token included.", TOKENS),
    "seqserve_batch_rows": ("Rows per decoder step.", ROWS),
}
FINISH_REASONS = ("eos", "length", "stop", "scored", "deadline", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class ModelLabels:
    """Label values of one model; they come from its bundle, never from a client."""

    name: str
    version: str
    family: str
    precision: str


@dataclass(slots=True)
class Watched:
    """One version's engine, and what its loop said of itself last."""

    engine: Engine
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of a model that are in memory, and what those counted that are not any more."""

    live: tuple[Watched, ...] = ()
    past: Reuse = field(default_factory=Reuse)

    @property
    def reuse(self) -> Reuse:
        """Of all versions there ever were; bytes only of those in memory."""
        reuses = [self.past, *(each.engine.reuse for each in self.live)]
        return Reuse(
            sum(each.hits for each in reuses), sum(each.misses for each in reuses),
            sum(each.bytes_used for each in reuses),
        )

    def without(self, engine: Engine) -> "Versions":
        """When one leaves memory. Its counts stay, so that no counter goes back."""
        leaving, live = engine.reuse, tuple(each for each in self.live if each.engine is not engine)
        return Versions(live, Reuse(self.past.hits + leaving.hits, self.past.misses + leaving.misses, 0))


class ModelMetrics(Collector):
    """Everything measured about one model, whatever its version. What ``attach`` returns belongs to the engine thread,
    ``collect`` to any."""

    def __init__(self, labels: ModelLabels, cache_budget: int) -> None:
        self._labels, self._cache_budget = labels, cache_budget
        self._versions = Versions()
        self._histograms = {name: Histogram(bounds) for name, (_, bounds) in HISTOGRAMS.items()}
        self._finished = dict.fromkeys(FINISH_REASONS, 0)
        self._input_tokens = self._output_tokens = self._scored_tokens = 0

    def attach(self, labels: ModelLabels, engine: Engine) -> Observe:
        """A version joins; returns the observer of its loop. The labels are those of the version from here on."""
        watched = Watched(engine)
        self._labels, self._versions = labels, Versions((*self._versions.live, watched), self._versions.past)
        return partial(self._observe, watched)

    def detach(self, engine: Engine) -> None:
        """A version has left; its counts stay."""
        self._versions = self._versions.without(engine)

    def _observe(self, watched: Watched, facts: StepFacts, events: list[Event]) -> None:
        """Take in one iteration of a loop."""
        watched.waiting, watched.running = facts.waiting, facts.running
        self._input_tokens += facts.source_tokens
        self._output_tokens += facts.tokens
        self._scored_tokens += facts.scored_tokens
        histograms = self._histograms
        for seconds in facts.score_seconds:
            histograms["seqserve_score_seconds"].observe(seconds)
        for seconds in facts.encode_seconds:
            histograms["seqserve_encode_seconds"].observe(seconds)
        for length in facts.source_lengths:
            histograms["seqserve_request_input_tokens"].observe(length)
        if facts.rows:
            histograms["seqserve_decode_step_seconds"].observe(facts.step_seconds)
            histograms["seqserve_batch_rows"].observe(facts.rows)
            if facts.tokens > facts.joined:
                histograms["seqserve_inter_token_seconds"].observe(facts.gap_seconds, facts.tokens - facts.joined)
        for event in events:
            if isinstance(event, Finished):
                self._observe_finished(event)
            elif isinstance(event, PairScored):
                self._finished["scored"] += 1  # no more: the histograms of requests are those of generation
            elif isinstance(event, Failed):
                self._finished["failed"] += 1
            elif not isinstance(event, TokensChosen):
                raise AssertionError(f"an event of an unknown kind: {event!r}")

    def _observe_finished(self, event: Finished) -> None:
        self._finished[event.reason.value] += 1
        times, histograms = event.times, self._histograms
        if times.admitted is not None:
            histograms["seqserve_request_queue_seconds"].observe(times.admitted - times.arrival)
        first, ended, tokens = times.first_token, times.ended, len(event.log_probs)
        if ended is not None:
            histograms["seqserve_request_duration_seconds"].observe(ended - times.arrival)
        if first is None:
            return
        histograms["seqserve_time_to_first_token_seconds"].observe(first - times.arrival)
        histograms["seqserve_request_output_tokens"].observe(tokens)
        if ended is not None and times.encoded is not None:
            histograms["seqserve_decode_seconds"].observe(ended - times.encoded)
            if tokens > 1:
                histograms["seqserve_time_per_output_token_seconds"].observe((ended - first) / (tokens - 1))

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        label = ("model_name",)
        values = (self._labels.name,)
        for name, (text, _) in HISTOGRAMS.items():
            buckets, total = self._histograms[name].snapshot()
            histogram = HistogramMetricFamily(name, text, labels=label)
            histogram.add_metric(values, buckets, sum_value=total)
            yield histogram
        versions = self._versions
        allocated, reuse = sum(each.engine.state_bytes for each in versions.live), versions.reuse
        waiting = sum(each.waiting for each in versions.live)
        running = sum(each.running for each in versions.live)
        gauges: Iterable[tuple[str, str, float]] = (
            ("seqserve_requests_waiting", "Requests that wait for rows, and pairs to be scored.", waiting),
            ("seqserve_requests_running", "Requests that hold rows.", running),
            ("seqserve_cache_bytes", "Bytes of attention caches allocated.", allocated),
            ("seqserve_cache_usage_ratio", "Caches allocated, as a part of --cache-bytes; two versions may have more.",
             allocated / self._cache_budget),
            ("seqserve_encoder_cache_bytes", "Bytes kept of what the encoder made of sources.", reuse.bytes_used),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=label)
            gauge.add_metric(values, value)
            yield gauge
        for name, text, count in (
            ("seqserve_input_tokens", "Source tokens of requests with rows, and of pairs.", self._input_tokens),
            ("seqserve_output_tokens", "Tokens generated, end tokens included.", self._output_tokens),
            ("seqserve_encoder_cache_hits", "Sources that the encoder was spared.", reuse.hits),
            ("seqserve_encoder_cache_misses", "Sources that it encoded.", reuse.misses),
            ("seqserve_scored_tokens", "Tokens of given targets scored, end tokens included.", self._scored_tokens),
        ):
            counter = CounterMetricFamily(name, text, labels=label)
            counter.add_metric(values, count)
            yield counter
        finished = CounterMetricFamily(
            "seqserve_requests", "Requests and pairs ended.", labels=("model_name", "finish_reason")
        )
        for reason, count in self._finished.items():
            finished.add_metric((self._labels.name, reason), count)
        yield finished
        info = GaugeMetricFamily(
            "seqserve_model_info", "Always 1.", labels=("model_name", "model_version", "family", "precision")
        )
        info.add_metric(
            (self._labels.name, self._labels.version, self._labels.family, self._labels.precision), 1
        )
        yield info


def reload_counter(registry: CollectorRegistry, results: Iterable[str]) -> Counter:
    """Bundles that were found changed, by what came of it; every result is there from the start."""
    counter = Counter("seqserve_reloads", "Changed bundles, by what came of them.", ("result",), registry=registry)
    for result in results:
        counter.labels(result)
    return counter
