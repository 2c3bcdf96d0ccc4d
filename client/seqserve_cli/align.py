"""``seqserve align``."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from seqserve_cli import attention_maps, attention_shades, exits, pairs, remote, terminal
from seqserve_cli.answers import Bundle
from seqserve_cli.lines import answer_in_order
from seqserve_client import AsyncClient

DESCRIPTION = """\
Show which source tokens each target token attends to: the decoder's cross-attention, when that token was chosen.
A source without a target is decoded, and its answer aligned, be it cut off at the model's limit. Pairs are arguments,
the lines of two files, or lines of stdin, with a tab between source and target where there is one.

In a terminal it looks like this, a row for each target token and a column for each source token, read downwards;
what is wider than the terminal is drawn in blocks, and colours show the most attended token of each row:

             ▁ ▁     ▁
           ▁ d p   ▁ s   <
           T o l ▁ t n   /
           w g a i h o   s
           o s y n e w . >
  ▁Zwei    ██··
  ▁Hunde     ▓▓··
  ▁spielen     ██
  ▁im            ▒▒··░░
  ▁Schnee            ██
  .            ░░··    ▒▒░░

--output draws it. --format pharaoh prints the most attended source token of each target token as SOURCE-TARGET,
counted from 0. All source tokens count, special tokens too, as --json lists them.

examples:
  seqserve align "Two dogs play." "Zwei Hunde spielen."
  seqserve align "Two dogs play."
  seqserve align --color always --width 100 < pairs.tsv | less -R
  seqserve align --output attention.png "Two dogs play."
  seqserve align --format pharaoh --files english.txt german.txt > links.txt
  seqserve align --json "Two dogs play." | jq '.alignment[0]'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    pairs.add_arguments(parser, "its target; without one, the source's answer is aligned")
    parser.set_defaults(return_alignment=True)  # decoding options are read by name
    parser.add_argument(
        "--layer", type=remote.at_least(1), metavar="N",
        help="of this decoder layer, from 1, in place of the model's usual heads; `seqserve info` tells of how many;"
        " not of an answer cut off at the model's limit, which has no room for the end token of scoring"
    )
    parser.add_argument(
        "--head", type=remote.at_least(1), metavar="N", help="of this head of --layer, from 1 (default: their mean)"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--output", type=Path, metavar="FILE", help="draw one pair into this file: "
        + ", ".join(attention_maps.SUFFIXES) + " by its name"
    )
    shown.add_argument(
        "--format", choices=("shades", "pharaoh"), default="shades", help="what to print (default: %(default)s)"
    )
    shown.add_argument("--json", action="store_true", help="print one JSON object per line, with all weights")
    terminal.add_color(parser)
    parser.add_argument(
        "--width", type=remote.at_least(0), metavar="N",
        help="cells of a line, where shades go on in another block; 0 is no end (default: the terminal's, else 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.head is not None and options.layer is None:
        raise exits.CommandError("--head: is one of a layer's: --layer is needed too", exits.USAGE)
    if options.output is not None:
        if options.output.suffix not in attention_maps.SUFFIXES:
            known = ", ".join(attention_maps.SUFFIXES)
            raise exits.CommandError(f"--output: {options.output.name!r} ends in none of {known}", exits.USAGE)
        attention_maps.require_drawing()
    blocks = pairs.blocks_of_pairs(options, lone_sources=True)
    if blocks is None:
        options.print_help(sys.stderr)
        return exits.USAGE
    with terminal.colours_reset(options.color):
        asyncio.run(_align(options, blocks if options.output is None else _only_one(blocks)))
    return exits.OK


async def _only_one(blocks: AsyncIterator[list[pairs.Pair]]) -> AsyncIterator[list[pairs.Pair]]:
    """The same; more than one pair is an error before anything is drawn."""
    found: list[pairs.Pair] = []
    async for block in blocks:
        found += [(source, target) for source, target in block if source.strip() or (target or "").strip()]
        if len(found) > 1:
            raise exits.CommandError("--output draws one pair, and there are more", exits.USAGE)
    if not found:
        raise exits.CommandError("--output: no pair to draw", exits.USAGE)
    yield found


async def _align(options: argparse.Namespace, blocks: AsyncIterator[list[pairs.Pair]]) -> None:
    kind, title = pairs.kind_of(options), ""
    before = ""

    def emit(result: Any) -> None:
        nonlocal before
        if options.output is not None:
            attention_maps.draw(options.output, result, title)
            return
        sys.stdout.write(before + _formatted(result, options) + "\n")
        sys.stdout.flush()
        if options.format == "shades" and not options.json:
            before = "\n"  # between two drawings

    if options.model:
        with remote.errors_as_one_line("in-process"):
            bundle = Bundle(options.model)
            title = _whose(options, bundle.alignment_source)
            answer = pairs.answering(
                pairs.BundleModel(bundle, options), kind, aligned=True, heads_chosen=options.layer is not None
            )
            await answer_in_order(blocks, answer, emit, batch_size=pairs.IN_PROCESS_BATCH_SIZE, calls_in_flight=1)
        return
    with remote.errors_as_one_line(options.target):
        security = remote.security(options)
        async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:
            models = (await client.info()).models
            size = min([pairs.BATCH_SIZE, *(each.limits.max_inputs for each in models if each.limits.max_inputs)])
            chosen = [each for each in models if options.model_name in (None, each.name)]
            usual = chosen[0].alignment_source if chosen else ""
            title = f"{chosen[0].name}: {_whose(options, usual)}" if usual else ""
            answer = pairs.answering(
                pairs.ServerModel(client, options), kind, aligned=True, heads_chosen=options.layer is not None
            )
            await answer_in_order(blocks, answer, emit, batch_size=size, calls_in_flight=4)


def _whose(options: argparse.Namespace, usual: str) -> str:
    """Which attention a picture shows."""
    if options.layer is None:
        return usual
    return f"layer {options.layer}, " + ("mean of its heads" if options.head is None else f"head {options.head}")


def _formatted(result: Any, options: argparse.Namespace) -> str:
    if options.json:
        return json.dumps(_record(result), ensure_ascii=False)
    if result is None:
        return ""
    if options.format == "pharaoh":
        return attention_maps.pharaoh(result)
    return attention_shades.shades(result, _look(options))


def _look(options: argparse.Namespace) -> attention_shades.Look:
    """As standard output is now: windows change between two drawings."""
    drawn_on = terminal.drawn_on()
    columns = options.width if options.width is not None else terminal.columns() if drawn_on else 0
    return attention_shades.Look(columns, terminal.coloured(options.color), drawn_on)


def _record(result: Any) -> dict[str, Any]:
    if result is None:
        return {"source_tokens": [], "tokens": [], "token_ids": [], "alignment": []}
    return {
        "source_tokens": result.source_tokens, "tokens": result.tokens, "token_ids": result.token_ids,
        "alignment": attention_maps.weights_of(result), "score": result.score,
    }
