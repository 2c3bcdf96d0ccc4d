"""Bundles of one model in several precisions, side by side: size, BLEU, and tokens per second at 1, 8 and 64 rows.

    python bench/precisions.py DATA fp32-bundle/ int8-bundle/ [--rounds 5]

Sentences of test_2016_flickr, greedy. "rows" is how many decode at once in this process; "clients" as many callers of a
server through gRPC, on the same cores. Rounds are interleaved and ratios are of turns that followed one another.
"""

import argparse
import asyncio
import contextlib
import time
from collections import defaultdict
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU

from bleu import translate
from multi30k import sentences, show_progress
from processes import Server, running_server
from seqserve_server.local import LocalModel
from spread import Spread

AT_ONCE = (1, 8, 64)
SHARE = {1: 8, 8: 2, 64: 1}  # one row takes so much longer that every eighth sentence is enough
Turns = dict[tuple[str, int], list[float]]


def in_process(bundle: Path, texts: list[str], rows: int) -> float:
    """Tokens per second, the time to open the bundle not counted."""
    with LocalModel.open(bundle, max_rows=rows) as model:
        tokenizer, frame = model.served.tokenizer, model.description.framing.example()
        if tokenizer is None:
            raise SystemExit(f"{bundle}: has no tokenizer")
        sources = [frame.complete(tuple(tokenizer.encode(text))) for text in texts]
        model.generate(sources[:rows], [frame.prompt] * min(rows, len(sources)))
        begun = time.perf_counter()
        results = model.generate(sources, [frame.prompt] * len(sources))
        return sum(len(result.log_probs) for result in results) / (time.perf_counter() - begun)


def through_grpc(server: Server, texts: list[str], clients: int) -> float:
    """Tokens per second."""
    begun = time.perf_counter()
    results = asyncio.run(translate(server.target, texts, clients, {}))
    return sum(result.output_token_count for result in results) / (time.perf_counter() - begun)


def measure(bundles: list[Path], servers: list[Server], texts: list[str], rounds: int) -> list[Turns]:
    """Tokens per second of every bundle, kind and number of rows, one figure a round. Servers start paused."""
    turns: list[Turns] = [defaultdict(list) for _ in bundles]
    for number in range(rounds):
        for count in AT_ONCE:
            part = texts[number % SHARE[count] :: SHARE[count]]
            for bundle, server, found in zip(bundles, servers, turns, strict=True):
                found["rows", count].append(in_process(bundle, part, count))
                server.process.resume()
                found["clients", count].append(through_grpc(server, part, count))
                server.process.pause()
        show_progress("rounds", number + 1, rounds)
    return turns


def main() -> None:
    """Print a table; the first bundle is what others are compared with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en and .de, or their .gz forms")
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    texts, references = sentences(given.data, "en"), sentences(given.data, "de")
    scores: list[float] = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running_server(bundle)) for bundle in given.bundles]
        for server in servers:
            answers = [result.text for result in asyncio.run(translate(server.target, texts, AT_ONCE[-1], {}))]
            scores.append(BLEU().corpus_score(answers, [references]).score)
            server.process.pause()
        turns = measure(given.bundles, servers, texts, given.rounds)
        for server in servers:
            server.process.resume()
    for bundle, score, found in zip(given.bundles, scores, turns, strict=True):
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        print(f"{bundle}: {size / 1e6:.1f} MB, BLEU {score:.2f}")
        for (kind, count), speeds in found.items():
            ratios = [ours / base for ours, base in zip(speeds, turns[0][kind, count], strict=True)]
            print(f"  {count:2} {kind:8} {Spread.of(speeds).median:7.0f} tokens/s   "
                  f"{Spread.of(ratios).text(2)} of the first's")


if __name__ == "__main__":
    main()
