"""What ``seqserve score`` and ``seqserve align`` share: pairs of lines, and who scores them."""

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, Self

from seqserve_cli import exits, remote
from seqserve_cli.answers import IN_PROCESS_KINDS, Bundle, Content, decoding_options, parsed
from seqserve_cli.lines import blocks_of_lines, blocks_of_texts, from_thread, one_block
from seqserve_client import AsyncClient, InvalidInput, ScoreOptions

Pair = tuple[str, str | None]
"""A source and a target as lines; None where there is only a source."""

BLOCK = 256  # lines of two files that are read ahead of each other at most
BATCH_SIZE, IN_PROCESS_BATCH_SIZE = 16, 64


def add_arguments(parser: argparse.ArgumentParser, target: str) -> None:
    """Arguments of both commands; ``target`` says what the second one is."""
    parser.set_defaults(print_help=parser.print_help)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help='a source; none, or "-", reads stdin')
    parser.add_argument("given", nargs="?", metavar="TARGET", help=target)
    parser.add_argument(
        "--files", nargs=2, metavar=("SOURCES", "TARGETS"), help="read sources and targets from these, line by line"
    )
    whose = parser.add_mutually_exclusive_group()
    remote.add_target(whose)
    whose.add_argument("--model", metavar="BUNDLE", help="score with this bundle in-process, with no server")
    parser.add_argument("--model-name", metavar="NAME", help="which model of a server that has several")
    remote.add_security(parser)
    remote.add_languages(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tokens", action="store_true", help="sources and targets are pieces between spaces")
    form.add_argument("--token-ids", action="store_true", help="sources and targets are ids between spaces")
    remote.add_turn(parser.add_argument_group("turns"))
    remote.add_timeout(parser, 60)


def kind_of(options: argparse.Namespace) -> str:
    """The form of sources and targets."""
    return "tokens" if options.tokens else "token_ids" if options.token_ids else "texts"


def blocks_of_pairs(options: argparse.Namespace, *, lone_sources: bool) -> AsyncIterator[list[Pair]] | None:
    """The command's pairs: its arguments, two files, or the lines of stdin; None where nobody says anything.

    Args:
        lone_sources: Whether a source may come without a target.

    Raises:
        CommandError: arguments that contradict one another, or stdin is wanted, and closed.
    """
    if options.model and options.model_name:
        raise exits.CommandError("--model-name chooses among a server's models; --model names the bundle", exits.USAGE)
    if options.files:
        if options.source is not None:
            raise exits.CommandError("--files names where pairs come from; there is no SOURCE beside it", exits.USAGE)
        return from_thread(pairs_of_files(*map(Path, options.files)))
    if options.given is not None:
        return one_block([(options.source, options.given)])
    if options.source not in (None, "-"):
        if not lone_sources:
            raise exits.CommandError("a SOURCE needs a TARGET", exits.USAGE)
        return one_block([(options.source, None)])
    lines = blocks_of_texts([] if options.source is None else ["-"])
    return None if lines is None else _split(lines, lone_sources)


async def _split(blocks: AsyncIterator[list[str]], lone_sources: bool) -> AsyncIterator[list[Pair]]:
    number = 0
    async for lines in blocks:
        pairs: list[Pair] = []
        for line in lines:
            number += 1
            source, tab, target = line.partition("\t")
            if "\t" in target:
                raise exits.CommandError(f"line {number} has {target.count(tab) + 1} tabs: one is between two texts")
            if not (tab or lone_sources) and line.strip():
                raise exits.CommandError(f"line {number} has no tab between source and target")
            pairs.append((source, target if tab else None))
        yield pairs


def pairs_of_files(sources: Path, targets: Path) -> Iterator[list[Pair]]:
    """Line by line, in blocks.

    Raises:
        CommandError: a file cannot be read, or one has more lines than the other.
    """
    try:
        with sources.open("rb", buffering=0) as left, targets.open("rb", buffering=0) as right:
            block: list[Pair] = []
            for number, (source, target) in enumerate(zip_longest(_lines(left), _lines(right)), 1):
                if source is None or target is None:
                    ended = sources if source is None else targets
                    raise exits.CommandError(f"{ended} ends before line {number}, and the other file has one")
                block.append((source, target))
                if len(block) == BLOCK:
                    yield block
                    block = []
            if block:
                yield block
    except OSError as error:
        raise exits.CommandError(f"{error.filename}: {error.strerror}") from error


def _lines(stream: Any) -> Iterator[str]:
    for block in blocks_of_lines(stream):
        yield from block


@dataclass(frozen=True, slots=True)
class Decoded:
    """The best answer to a source without a target, with the fields of an aligned pair. It may have been cut off."""

    score: float
    token_ids: list[int]
    tokens: list[str]
    input_token_count: int
    alignment: list[list[float]]
    source_tokens: list[str]

    @classmethod
    def of_result(cls, result: Any) -> Self:
        """From a result of generating with its alignment."""
        best = result.hypotheses[0]
        return cls(
            best.score, best.token_ids, best.tokens, result.input_token_count, best.alignment, result.source_tokens
        )


class Model(Protocol):
    """Who scores."""

    async def score(
        self, kind: str, contents: list[tuple[Content, Content]], *, aligned: bool, target_kind: str | None = None
    ) -> list[Any]:
        """Results of the client, or with the same fields, of pairs. Targets are of the sources' kind or their own."""

    async def decode(self, kind: str, contents: list[Content]) -> list[Decoded]:
        """Best answers and their alignments."""


class ServerModel:
    """A server's."""

    def __init__(self, client: AsyncClient, options: argparse.Namespace) -> None:
        self._client, self._options = client, options

    async def score(
        self, kind: str, contents: list[tuple[Content, Content]], *, aligned: bool, target_kind: str | None = None
    ) -> list[Any]:
        """One call."""
        names = {"texts": "{}s", "tokens": "{}_tokens", "token_ids": "{}_token_ids"}
        kinds = {"source": kind, "target": target_kind or kind}
        sides: dict[str, Any] = {
            names[of_side].format(side): list(values)
            for (side, of_side), values in zip(kinds.items(), zip(*contents, strict=True), strict=True)
        }
        return list(await self._client.score(
            model=self._options.model_name, **sides, **score_options(self._options, aligned)
        ))

    async def decode(self, kind: str, contents: list[Content]) -> list[Decoded]:
        """One call."""
        arguments: dict[str, Any] = {kind: contents, **decoding_options(self._options)}
        results = await self._client.generate(model=self._options.model_name, **arguments)
        return [Decoded.of_result(result) for result in results]


class BundleModel:
    """A bundle's, in this process."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace) -> None:
        self._bundle, self._options = bundle, options

    async def score(
        self, kind: str, contents: list[tuple[Content, Content]], *, aligned: bool, target_kind: str | None = None
    ) -> list[Any]:
        """Away from the event loop, which reads on."""
        given, of_targets = IN_PROCESS_KINDS[kind], IN_PROCESS_KINDS[target_kind or kind]
        pairs = [((given, source), (of_targets, target)) for source, target in contents]
        return await asyncio.to_thread(self._bundle.score, pairs, score_options(self._options, aligned))

    async def decode(self, kind: str, contents: list[Content]) -> list[Decoded]:
        """Likewise."""
        results = await asyncio.to_thread(self._bundle.generate, self._options, kind, contents)
        return [Decoded.of_result(result) for result in results]


def score_options(options: argparse.Namespace, aligned: bool) -> ScoreOptions:
    """The options of the command line that go with each call."""
    return {
        "source_language": options.source_language, "target_language": options.target_language,
        "length_penalty": getattr(options, "length_penalty", None), "return_alignment": aligned or None,
        "alignment_layer": getattr(options, "layer", None), "alignment_head": getattr(options, "head", None),
        "priority": options.priority, "tenant": options.tenant,
    }


def answering(
    model: Model, kind: str, *, aligned: bool, heads_chosen: bool = False
) -> Callable[[int, list[Pair]], Awaitable[list[Any]]]:
    """Results of batches of pairs; None for blank ones, which are not sent. Errors name the line, not the place.

    Args:
        heads_chosen: Whether the options name a layer: answers to lone sources are then scored, too, because decoding
            tells the attention of the usual heads only.
    """

    async def answer(first: int, pairs: list[Pair]) -> list[Any]:
        places = [place for place, (source, target) in enumerate(pairs) if source.strip() or (target or "").strip()]
        sources = {place: parsed(pairs[place][0], first + place, kind) for place in places}
        results: list[Any] = [None] * len(pairs)
        for lone in (False, True):
            those = [place for place in places if (pairs[place][1] is None) == lone]
            if not those:
                continue
            found: list[Any]
            with _lines_named(first, those):
                if lone:
                    alone = [sources[place] for place in those]
                    found = list(await model.decode(kind, alone))
                    if heads_chosen:
                        decoded: list[tuple[Content, Content]] = [
                            (content, list(each.token_ids)) for content, each in zip(alone, found, strict=True)
                        ]
                        found = await model.score(kind, decoded, aligned=aligned, target_kind="token_ids")
                else:
                    targets = [parsed(pairs[place][1] or "", first + place, kind) for place in those]
                    contents = [(sources[place], target) for place, target in zip(those, targets, strict=True)]
                    found = await model.score(kind, contents, aligned=aligned)
            for place, result in zip(those, found, strict=True):
                results[place] = result
        return results

    return answer


@contextmanager
def _lines_named(first: int, places: list[int]) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        if found := re.match(r"(?:pairs|inputs)\[(\d+)\]", error.field or ""):
            line = first + places[int(found[1])]
            raise exits.CommandError(f"line {line}: {error.code.name}: {error}") from error
        raise
