"""``seqserve tokenize``."""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

from seqserve_cli import exits, remote
from seqserve_cli.answers import parsed
from seqserve_cli.lines import answer_in_order, blocks_of_texts
from seqserve_client import AsyncClient, InvalidInput

DESCRIPTION = """\
Print the token ids that a server makes of each text: the arguments, or the lines of stdin. With --reverse, the other
way round: lines hold ids of the target vocabulary, and their texts are printed. Nothing is generated.

examples:
  seqserve tokenize "A man is riding a horse."
  seqserve tokenize --tokens < english.txt
  seqserve tokenize "Two dogs play." | seqserve generate --token-ids
  seqserve tokenize --json --special "Two dogs play." | jq '.token_ids | length'
  echo "5 17 203" | seqserve tokenize --reverse"""
BATCH_SIZE = 64
CALLS_IN_FLIGHT = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.set_defaults(print_help=parser.print_help)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help='what to tokenise; none, or "-", reads stdin')
    remote.add_target(parser)
    remote.add_security(parser)
    parser.add_argument("--model-name", metavar="NAME", help="which model of a server that has several")
    parser.add_argument("--special", action="store_true", help="also the special tokens that the model puts around")
    parser.add_argument("--source-language", metavar="CODE", help="with --special, for models that have several")
    parser.add_argument("--reverse", action="store_true", help="lines hold ids between spaces; print their texts")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tokens", action="store_true", help="print vocabulary entries instead of ids")
    form.add_argument("--json", action="store_true", help="print one JSON object per line, with ids and entries")
    remote.add_timeout(parser, 60)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.reverse and (options.special or options.source_language or options.tokens):
        raise exits.CommandError("--reverse prints texts; it takes none of --special, --source-language and --tokens",
                                 exits.USAGE)
    blocks = blocks_of_texts(options.texts)
    if blocks is None:
        options.print_help(sys.stderr)
        return exits.USAGE
    asyncio.run(_print_all(options, blocks))
    return exits.OK


async def _print_all(options: argparse.Namespace, blocks: AsyncIterator[list[str]]) -> None:
    with remote.errors_as_one_line(options.target):
        security = remote.security(options)
        async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:

            async def answer(first: int, lines: list[str]) -> list[str]:
                try:
                    return await _answers(client, options, first, lines)
                except InvalidInput as error:
                    if found := re.match(r"(?:texts|token_ids)\[(\d+)\]", error.field or ""):
                        line = first + int(found[1])
                        raise exits.CommandError(f"line {line}: {error.code.name}: {error}") from error
                    raise

            models = (await client.info()).models
            batch_size = min([BATCH_SIZE, *(model.limits.max_inputs for model in models if model.limits.max_inputs)])
            await answer_in_order(blocks, answer, _print, batch_size=batch_size, calls_in_flight=CALLS_IN_FLIGHT)


async def _answers(client: AsyncClient, options: argparse.Namespace, first: int, lines: list[str]) -> list[str]:
    """One line of output for each line."""
    if options.reverse:
        rows: list[Any] = [parsed(line, first + place, "token_ids") for place, line in enumerate(lines)]
        texts = await client.detokenize(rows, model=options.model_name)
        return [json.dumps({"text": text}, ensure_ascii=False) for text in texts] if options.json else texts
    results = await client.tokenize(
        lines, add_special_tokens=options.special, source_language=options.source_language, model=options.model_name
    )
    if options.json:
        records = ({"token_ids": each.token_ids, "tokens": each.tokens} for each in results)
        return [json.dumps(record, ensure_ascii=False) for record in records]
    return [" ".join(each.tokens if options.tokens else map(str, each.token_ids)) for each in results]


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
