"""``seqserve score``."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from seqserve_cli import exits, pairs, remote
from seqserve_cli.answers import Bundle
from seqserve_cli.lines import answer_in_order
from seqserve_client import AsyncClient

DESCRIPTION = """\
Print what a model thinks of each target behind its source: the sum of the log-probabilities of its tokens and its end
token, divided by their number to the power of --length-penalty. Nothing is generated. Pairs are two arguments, the
lines of two files, or lines of stdin with a tab between source and target. Order is kept, and a blank line gives a
blank line.

With --word-scores, the log-probability of every token follows, the end token's last, in the form that Marian uses:

  -0.0731 ||| WordScores= -0.0521 -0.0412 -0.126

examples:
  seqserve score "Two dogs play." "Zwei Hunde spielen."
  seqserve score --files english.txt german.txt > scores.txt
  paste english.txt german.txt | seqserve score --length-penalty 0
  seqserve score --model bundle/ "Two dogs play." "Zwei Hunde spielen."
  seqserve score --json "Two dogs." "Zwei Hunde." | jq '.token_log_probs'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    pairs.add_arguments(parser, 'the target to score; "" scores the end token alone')
    parser.add_argument(
        "--length-penalty", type=float, metavar="X",
        help="scores are divided by the length to this power; 0 leaves the plain sum (default: the model's)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--word-scores", action="store_true", help="also the log-probability of every token")
    shown.add_argument("--json", action="store_true", help="print one JSON object per line, with ids and entries")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    blocks = pairs.blocks_of_pairs(options, lone_sources=False)
    if blocks is None:
        options.print_help(sys.stderr)
        return exits.USAGE
    asyncio.run(_score(options, blocks))
    return exits.OK


async def _score(options: argparse.Namespace, blocks: AsyncIterator[list[pairs.Pair]]) -> None:
    def emit(result: Any) -> None:
        sys.stdout.write(_formatted(result, options) + "\n")
        sys.stdout.flush()

    kind = pairs.kind_of(options)
    if options.model:
        with remote.errors_as_one_line("in-process"):
            model = pairs.BundleModel(Bundle(options.model), options)
            answer = pairs.answering(model, kind, aligned=False)
            await answer_in_order(blocks, answer, emit, batch_size=pairs.IN_PROCESS_BATCH_SIZE, calls_in_flight=1)
        return
    with remote.errors_as_one_line(options.target):
        security = remote.security(options)
        async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:
            models = (await client.info()).models
            size = min([pairs.BATCH_SIZE, *(each.limits.max_inputs for each in models if each.limits.max_inputs)])
            answer = pairs.answering(pairs.ServerModel(client, options), kind, aligned=False)
            await answer_in_order(blocks, answer, emit, batch_size=size, calls_in_flight=4)


def _formatted(result: Any, options: argparse.Namespace) -> str:
    if result is None:
        return json.dumps({"score": None, "token_log_probs": []}) if options.json else ""
    if options.json:
        names = ("score", "token_log_probs", "token_ids", "tokens", "input_token_count")
        return json.dumps({name: getattr(result, name) for name in names}, ensure_ascii=False)
    if options.word_scores:
        return f"{result.score:.6g} ||| WordScores= {' '.join(f'{each:.6g}' for each in result.token_log_probs)}"
    return f"{result.score:.6g}"
