"""BLEU of a running server on test_2016_flickr: cased, detokenised, through the client."""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU

from multi30k import sentences, show_progress
from seqserve_client import AsyncClient, SeqserveError
from seqserve_client.results import Result


async def translate(target: str, texts: list[str], clients: int, options: dict[str, Any]) -> list[Result]:
    """Every text in a call of its own, ``clients`` calls at a time."""
    places, results = iter(range(len(texts))), dict[int, Result]()

    async def work(client: AsyncClient) -> None:
        for place in places:  # shared by all: the next free client takes the next text
            results[place] = (await client.generate([texts[place]], timeout=None, **options))[0]
            show_progress("translated", len(results), len(texts))

    async with AsyncClient(target) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return [results[place] for place in range(len(texts))]


def main() -> int:
    """Print BLEU, its signature and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en and .de, or their .gz forms")
    parser.add_argument("--target", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--source-language", default="en")
    parser.add_argument("--target-language", default="de")
    parser.add_argument("--clients", type=int, default=64, help="calls at a time")
    parser.add_argument("--beam-size", type=int, metavar="N", help="live hypotheses (default: the model's)")
    parser.add_argument("--length-penalty", type=float, metavar="P", help="(default: the model's)")
    parser.add_argument("--output", type=Path, help="write the translations, one line each")
    given = parser.parse_args()
    texts, references = (sentences(given.data, name) for name in (given.source_language, given.target_language))
    options = {name: value for name in ("beam_size", "length_penalty") if (value := getattr(given, name)) is not None}
    begun = time.perf_counter()
    try:
        results = asyncio.run(translate(given.target, texts, given.clients, options))
    except SeqserveError as error:
        print(f"bleu: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begun
    translations = [result.text for result in results]
    if given.output:
        given.output.write_text("".join(f"{line}\n" for line in translations), encoding="utf-8")
    metric = BLEU()
    print(metric.corpus_score(translations, [references]))
    print(metric.get_signature())
    tokens = sum(result.output_token_count for result in results)
    print(f"{len(texts)} sentences, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s, "
          f"{len(texts) / seconds:.0f} sentences/s with {given.clients} calls at a time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
