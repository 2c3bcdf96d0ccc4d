"""Decode in this process, without a server: the same engine, scheduler and loop, driven by the caller's thread."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqserve.bundle import ModelDescription
from seqserve_server.admission import check_complete, check_memory, frame_of
from seqserve_server.capacity import Capacity
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.encoder_batch import pack
from seqserve_server.engine import Changes, Layout, Pair, PlaceRelease, RowRelease, Scored, Source, StepInput
from seqserve_server.errors import EngineFailure, InvalidRequest
from seqserve_server.loop import Loop
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.placement import Place
from seqserve_server.request import Event, Failed, Finished, PairScored, Request, ScoreRequest, Terminal, TokensChosen
from seqserve_server.search_options import Options, resolve_lengths
from seqserve_server.served_model import EngineLimits, ServedModel

Ended = TypeVar("Ended", Finished, PairScored)


class LocalModel:
    """A bundle in this process. Not for several threads."""

    def __init__(self, served: ServedModel) -> None:
        if not isinstance(served.engine, OrtEngine | DeviceEngine):
            raise TypeError(f"decoding in-process needs the runtime's engine, not {type(served.engine).__name__}")
        self.served, self._engine = served, served.engine
        self._ended: dict[int, Terminal] = {}
        self._next_id = 0
        self._streamed: list[int] = []
        self._loop = Loop(served.engine, served.scheduler(), self._collect)

    @classmethod
    def open(
        cls, directory: Path, *, threads: int = 0, cache_bytes: int | None = None, max_rows: int | None = None,
        encode_tokens: int | None = None, scorer: bool | None = None, verify: bool = True,
    ) -> "LocalModel":
        """Open a bundle; raises ``BundleError`` with one line where it cannot be used."""
        given: dict[str, Any] = {
            "cache_bytes": cache_bytes, "max_rows": max_rows, "encode_tokens": encode_tokens, "scorer": scorer,
        }
        limits = EngineLimits(threads=threads, **{name: value for name, value in given.items() if value is not None})
        return cls(ServedModel.open(directory, limits, verify=verify))

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def description(self) -> ModelDescription:
        """The bundle's ``model.json``."""
        return self.served.description

    @property
    def version(self) -> str:
        """Start of the manifest's SHA-256."""
        return self.served.version

    def generate(
        self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]] | None = None, *,
        max_new_tokens: int | None = None, min_new_tokens: int | None = None, arrivals: Sequence[int] | None = None,
        searches: Sequence[SearchSettings] | None = None,
    ) -> list[Finished]:
        """Decode complete id sequences (special tokens included) through the continuous batch.

        Args:
            prompts: What the decoder is fed first, for each source; by default that of the model's default languages.
            max_new_tokens, min_new_tokens: For all sources; the search is greedy then.
            arrivals: The loop step at which each source is submitted, ascending or not; by default all at the first.
            searches: How to search, for each source, in place of the two limits.

        Raises:
            EngineFailure: the engine could not compute one of them.
        """
        if searches is None:
            searches = [self._greedy(max_new_tokens, min_new_tokens)] * len(sources)
        if prompts is None:
            prompts = [self._default_prompt()] * len(sources)
        requests = [
            self._request(source, prompt, search, f"sources[{place}]")
            for place, (source, prompt, search) in enumerate(zip(sources, prompts, searches, strict=True))
        ]
        order = sorted(range(len(requests)), key=lambda place: 0 if arrivals is None else arrivals[place])
        step, submitted, busy = 0, 0, True
        while busy or submitted < len(order):
            while submitted < len(order) and (arrivals is None or arrivals[order[submitted]] <= step):
                self._loop.submit([requests[order[submitted]]])
                submitted += 1
            busy = self._loop.step()
            step += 1
        return [self._take(request.id, Finished) for request in requests]

    def stream(
        self, source: Sequence[int], prompt: Sequence[int] | None = None, *, max_new_tokens: int | None = None,
        min_new_tokens: int | None = None, search: SearchSettings | None = None,
    ) -> Iterator[list[int] | Finished]:
        """Decode one complete id sequence; yields new token ids after each step, and the whole at the end."""
        prompt = self._default_prompt() if prompt is None else prompt
        search = search or self._greedy(max_new_tokens, min_new_tokens)
        request = self._request(source, prompt, search, "source", stream=True)
        self._loop.submit([request])
        try:
            while request.id not in self._ended:
                self._loop.step()
                token_ids, self._streamed = self._streamed, []
                if token_ids:
                    yield token_ids
            yield self._take(request.id, Finished)
        finally:
            # An abandoned stream leaves its rows now, not when another call happens to step the loop.
            self._loop.cancel([request.id])
            self._loop.step()
            self._ended.pop(request.id, None)

    def score_pairs(self, requests: Sequence[ScoreRequest]) -> list[PairScored]:
        """Score pairs through the loop, in passes as a server makes them; their ids are given here.

        Raises:
            EngineFailure: the engine could not compute one of them.
        """
        first, now = self._next_id + 1, time.monotonic()
        self._next_id += len(requests)
        numbered = [replace(each, id=first + place, arrival=now) for place, each in enumerate(requests)]
        self._loop.submit(numbered)
        while self._loop.step():
            pass
        return [self._take(each.id, PairScored) for each in numbered]

    def _default_prompt(self) -> tuple[int, ...]:
        return frame_of(None, None, self.description).prompt

    def _greedy(self, max_new_tokens: int | None, min_new_tokens: int | None) -> SearchSettings:
        longest, least = resolve_lengths(Options(max_new_tokens, min_new_tokens), self.description)
        return SearchSettings(self.description.eos_id, longest, least, forced_end=self.description.forced_end)

    def _request(
        self, source: Sequence[int], prompt: Sequence[int], search: SearchSettings, field: str, *,
        stream: bool = False,
    ) -> Request:
        check_complete(source, self.description, field)
        self._next_id += 1
        request = Request(self._next_id, tuple(source), tuple(prompt), search, time.monotonic(), stream=stream)
        check_memory(request, self.served.limits)
        return request

    def encoder_states(self, source_ids: Sequence[int]) -> NDArray[np.float32]:
        """Encoder output [length, width] of one complete source, from the exported graph."""
        states = self._engine.run_encoder(pack([source_ids]), ["states"])["states"]
        return np.asarray(states, dtype=np.float32)

    def step_logits(
        self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int] | None = None,
        last: int | None = None,
    ) -> NDArray[np.float32]:
        """Logits [len(target_ids), vocabulary] of incremental steps fed the prompt, then the target's tokens.

        Row i is what the model thinks of position i; ``target_ids[i]`` is fed to the step after. ``last`` keeps only
        so many rows, the last ones.
        """
        prompt = self._default_prompt() if prompt is None else prompt
        engine, fed, place = self._engine, [*prompt, *target_ids[:-1]], Place(0, 0)
        counts = [1] + [0] * (len(engine.widths) - 1)
        engine.reserve(Capacity(1, len(fed), len(source_ids), tuple(counts)))
        engine.encode([Source(0, (place,), source_ids)])
        layout = Layout([0], [0], [0], counts)
        kept: deque[NDArray[np.float32]] = deque(maxlen=min(len(target_ids), last or len(target_ids)))
        for position, token in enumerate(fed):
            logits = engine.step(StepInput([token], [position], 1, layout, logits=True)).logits
            if logits is None:
                raise AssertionError("they were asked for")
            kept.append(logits[0].copy())
        engine.change(Changes([RowRelease(0, len(fed))], [PlaceRelease(place, len(source_ids))]))
        return np.stack(list(kept))

    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]],
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> list[Scored]:
        """Score targets, an end token where they have one included, behind complete sources, in one pass.

        Args:
            prompts: As for ``generate``.
        """
        if prompts is None:
            prompts = [self._default_prompt()] * len(sources)
        return self._engine.score([
            Pair(source, [*prompt, *target], len(prompt))
            for source, prompt, target in zip(sources, prompts, targets, strict=True)
        ])

    def score_targets(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float32]]:
        """The log-probabilities of ``score`` alone."""
        return [scored.log_probs for scored in self.score(sources, targets, prompts)]

    @property
    def can_score(self) -> bool:
        """Whether the bundle came with a scorer, and it was opened."""
        return self._engine.can_score

    def text(self, token_ids: Sequence[int]) -> str:
        """Detokenised.

        Raises:
            InvalidRequest: the bundle has no tokenizer.
        """
        if self.served.tokenizer is None:
            raise InvalidRequest("token_ids", "this model has no tokenizer")
        return self.served.tokenizer.decode(token_ids)

    def _collect(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TokensChosen):
                self._streamed += event.token_ids
            else:
                self._ended[event.request_id] = event

    def _take(self, request_id: int, kind: type[Ended]) -> Ended:
        event = self._ended.pop(request_id)
        if isinstance(event, Failed):
            raise EngineFailure(event.message)
        if not isinstance(event, kind):
            raise AssertionError(f"nobody asked for {event}")
        return event
