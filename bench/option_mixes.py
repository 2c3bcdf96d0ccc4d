"""Does a request's company change its answer, whatever both ask for? Counts answers whose tokens or bits differ.

    PYTHONPATH=bench .venv/bin/python bench/option_mixes.py BUNDLE DATA [--sentences 84] [--mixes 4]

Every sentence is asked for with every kind of option, and its greedy translation scored, through gRPC: first one call
at a time, by a server that keeps no encoded sources; then all calls in random order, many at once, by one that does.
The same is done once with a runtime that does not prepack weights, which has to find differences in float32: else the
comparison could not see what it looks for. Sums of integers have no order that could show.
"""

import argparse
import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime as ort

from multi30k import sentences, show_progress
from seqserve.bundle import read_model
from seqserve_client import AsyncClient
from seqserve_server.config import ServerConfig
from seqserve_server.server import running_server

AT_ONCE = 48
KINDS: list[dict[str, Any]] = [
    {},
    {"min_new_tokens": 20},
    {"stop": ["Mann", "ein"]},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"suppress_tokens": [5, [6, 7], 11, 300]},
    {"banned_phrases": ["ein Mann", "Hund"]},
    {"top_k": 5},
    {"top_p": 0.9, "temperature": 1.3},
    {"sample": True, "no_repeat_ngram_size": 3},
    {"prefix": "Zwei"},
    {"prefix": "Eine Frau", "temperature": 0.7},
    {"prefix": "Ein Hund", "prefix_bias": 0.4},
    {"beam_size": 2},
    {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.2},
    {"beam_size": 8, "num_hypotheses": 2, "stopping": "exhaustive"},
    {"beam_size": 5, "patience": 2.0, "num_hypotheses": 3},
    {"beam_size": 3, "stopping": "full", "repetition_penalty": 1.2},
    {"beam_size": 4, "no_repeat_ngram_size": 2},
    {"beam_size": 4, "prefix": "Auf", "num_hypotheses": 2},
    {"beam_size": 3, "prefix": "Die Kinder", "prefix_bias": 0.6},
    {"beam_size": 4, "required_phrases": ["im Freien"]},
    {"beam_size": 5, "required_phrases": ["Hund", "Mann"], "num_hypotheses": 2},
    {"beam_size": 4, "coverage_penalty": 0.5, "num_hypotheses": 4},
    {"return_alternatives": True, "num_hypotheses": 6},
    {"return_alternatives": True, "num_hypotheses": 3, "beam_size": 3, "prefix": "Ein"},
    {"return_alignment": True},
    {"beam_size": 4, "return_alignment": True, "num_hypotheses": 2},
    {"replace_unknowns": True},
]
Case = tuple[str, dict[str, Any] | None]  # a sentence, and its options; None for a score


async def ask(client: AsyncClient, case: Case, targets: dict[str, str]) -> object:
    """All of an answer but the time it took."""
    text, options = case
    if options is None:
        (scored,) = await client.score([text], [targets[text]], return_alignment=True)
        return scored
    (result,) = await client.generate([text], seed=7, return_logprobs=True, **options) if is_drawn(options) else (
        await client.generate([text], return_logprobs=True, **options)
    )
    return result.hypotheses, result.finish_reason, result.source_tokens


def is_drawn(options: dict[str, Any]) -> bool:
    """Whether its tokens are drawn."""
    return bool({"sample", "temperature", "top_k", "top_p"} & options.keys())


@contextlib.asynccontextmanager
async def served(bundle: Path, encoder_cache_bytes: int) -> AsyncIterator[AsyncClient]:
    """A client of a server in this process."""
    config = ServerConfig(bundles=(bundle,), port=0, metrics_port=0, encoder_cache_bytes=encoder_cache_bytes)
    async with running_server(config) as server, AsyncClient(f"127.0.0.1:{server.port}", timeout=600) as client:
        yield client


async def alone(bundle: Path, cases: Sequence[Case], targets: dict[str, str]) -> list[object]:
    """Answers of a server that does one thing at a time."""
    async with served(bundle, 0) as client:
        if not targets:
            for text in dict.fromkeys(text for text, _ in cases):
                targets[text] = (await client.generate([text]))[0].text
        found = []
        for case in cases:
            found.append(await ask(client, case, targets))
            show_progress("alone", len(found), len(cases))
        return found


async def mixed(bundle: Path, cases: Sequence[Case], targets: dict[str, str], seed: int) -> list[object]:
    """Answers to the same, many at once, in random order."""
    found: list[object] = [None] * len(cases)
    order = iter(random.Random(seed).sample(range(len(cases)), len(cases)))
    async with served(bundle, 64 * 2**20) as client:

        async def work() -> None:
            for place in order:
                found[place] = await ask(client, cases[place], targets)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


@contextlib.contextmanager
def unpacked() -> Any:
    """A runtime that takes other kernels for one row than for many."""
    plain = ort.InferenceSession

    def opened(path: str, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        options.add_session_config_entry("session.disable_prepacking", "1")
        return plain(path, options, **settings)

    with mock.patch.object(ort, "InferenceSession", opened):
        yield


async def run(given: argparse.Namespace) -> int:
    """Print the findings; 0 when nothing differs as served, and something does when broken."""
    texts = sentences(given.data, "en")[: given.sentences]
    cases: list[Case] = [(text, kind) for text in texts for kind in (*KINDS, None)]
    targets: dict[str, str] = {}
    expected = await alone(given.bundle, cases, targets)
    different = compared = 0
    for seed in range(given.mixes):
        for case, one, other in zip(cases, expected, await mixed(given.bundle, cases, targets, seed), strict=True):
            compared += 1
            if one != other:
                different += 1
                print(f"DIFFERENT {case}\n  alone {one}\n  mixed {other}")
        show_progress("mixes", seed + 1, given.mixes)
    summary = (f"{len(texts)} sentences, {len(KINDS)} kinds of options and scores: {compared} answers in mixes, "
               f"{different} differ")
    if read_model(given.bundle).precision != "fp32":
        print(summary)
        return int(different > 0)
    few = cases[: 8 * (len(KINDS) + 1)]
    with unpacked():
        control = await mixed(given.bundle, few, targets, 0)
        broken = sum(one != other for one, other in zip(await alone(given.bundle, few, targets), control, strict=True))
    print(f"{summary}; broken on purpose: {broken} of {len(few)} differ")
    return 0 if not different and broken else 1


def main() -> int:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en or .en.gz")
    parser.add_argument("--sentences", type=int, default=84)
    parser.add_argument("--mixes", type=int, default=4)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
