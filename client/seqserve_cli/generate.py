"""``seqserve generate``."""

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from seqserve_cli import answers, decoding, documents, exits, remote, terminal
from seqserve_cli.lines import answer_in_order, blocks_of_texts
from seqserve_cli.word_wrap import WordWrap
from seqserve_client import AsyncClient, InvalidInput

DESCRIPTION = """\
Generate one line of output for each text: the arguments, or the lines of stdin. Order is kept, each line is flushed
as soon as it and those before it are done, and a blank line gives a blank line without being sent.

With --num-hypotheses over 1, each text gives as many lines in the n-best format of Moses and Marian, best first: the
number of the text, from 0, the answer and its score, as in

  0 ||| Ein Mann reitet auf einem Pferd. ||| -0.0731

A blank line then gives one with an empty answer and the score 0, and a search that finds fewer gives fewer.

With --document, the arguments are files, of any length: their sentences are answered, and lines, blank lines and
indentation are kept. With --json too, there is one object for each sentence, with "file", "source", "target", "score",
where both are in the file and in what becomes of it ("source_start" to "target_end", in characters), and "note": "cut"
for part of a sentence over the source limit, "copied" for what has no letter and no digit.

examples:
  seqserve generate "A man is riding a horse."
  seqserve generate --stream "Two dogs play."
  seqserve generate --beam-size 4 --num-hypotheses 2 "Two dogs play."
  seqserve generate --top-p 0.9 --temperature 0.7 --seed 1 "Two dogs play."
  seqserve generate --target translate.example:50051 < english.txt > german.txt
  seqserve generate --model bundle/ "No server is needed for this."
  seqserve generate --json "Two dogs play." | jq '.hypotheses[0].score'
  echo "5 17 203" | seqserve generate --token-ids
  seqserve generate --document book.txt --output buch.txt
  seqserve generate --document --json letter.txt | jq '[.source, .target]'"""

# Several calls in flight keep the running batch full while answers travel; large ones would let the first line of a
# file wait for the slowest of its batch.
BATCH_SIZE = 16
CALLS_IN_FLIGHT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.set_defaults(print_help=parser.print_help)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help='what to generate from; none, or "-", reads stdin')
    source = parser.add_mutually_exclusive_group()
    remote.add_target(source)
    source.add_argument("--model", metavar="BUNDLE", help="decode this bundle in-process, with no server")
    parser.add_argument("--model-name", metavar="NAME", help="which model of a server that has several")
    remote.add_security(parser)
    decoding.add_arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--tokens", action="store_true", help="lines hold source pieces between spaces; so do the answers"
    )
    form.add_argument("--token-ids", action="store_true", help="lines hold source ids between spaces; so do answers")
    parser.add_argument("--stream", action="store_true", help="print pieces as they arrive, one line after the other")
    parser.add_argument(
        "--no-wrap", action="store_true",
        help="with --stream in a terminal, break no lines between words: what is copied from it has none",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line; with --stream, one per chunk"
    )
    parser.add_argument(
        "--return-alignment", action="store_true", default=None,
        help="with --json, the attention that each token paid to the source; seqserve align draws it",
    )
    parser.add_argument(
        "--return-logprobs", action="store_true", default=None, help="with --json, log-probabilities of tokens too"
    )
    documents.add_arguments(parser)
    remote.add_timeout(parser, 60)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.model and options.model_name:
        raise exits.CommandError("--model-name chooses among a server's models; --model names the bundle", exits.USAGE)
    if options.document:
        return _run_document(options)
    if options.split or options.output or options.language:
        raise exits.CommandError("--split, --language and --output are for --document", exits.USAGE)
    for name in ("return_logprobs", "return_alignment"):
        if getattr(options, name) and not options.json:
            raise exits.CommandError(f"--{name.replace('_', '-')} is shown with --json only", exits.USAGE)
    if options.stream and several(options) and not options.json:
        raise exits.CommandError("--stream prints one answer as it grows; for several add --json", exits.USAGE)
    blocks = blocks_of_texts(options.texts)
    if blocks is None:
        options.print_help(sys.stderr)
        return exits.USAGE
    asyncio.run(_generate(options, blocks))
    return exits.OK


def _run_document(options: argparse.Namespace) -> int:
    documents.check(options)
    if not options.texts and sys.stdin is not None and sys.stdin.isatty():
        options.print_help(sys.stderr)
        return exits.USAGE
    asyncio.run(documents.translate(options))
    return exits.OK


async def _generate(options: argparse.Namespace, blocks: AsyncIterator[list[str]]) -> None:
    kind = "tokens" if options.tokens else "token_ids" if options.token_ids else "texts"

    numbers = itertools.count()

    def emit(answer: answers.Answer) -> None:
        _print(terminal.safe(_formatted(answer, options, next(numbers))) + "\n")

    if options.model:
        with remote.errors_as_one_line("in-process"):
            bundle = answers.Bundle(options.model)
            if options.stream:
                await _stream(lambda content: bundle.stream(options, kind, content), options, blocks, kind)
                return
            # One call at a time, large enough to fill the batch: there is nobody to share it with.
            answer = bundle.answers(options, kind)
            await answer_in_order(blocks, answer, emit, batch_size=64, calls_in_flight=1)
        return
    with remote.errors_as_one_line(options.target):
        security = remote.security(options)
        async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:
            if options.stream:
                await _stream(lambda content: _remote_chunks(client, options, kind, content), options, blocks, kind)
                return
            models = (await client.info()).models
            batch_size = min([BATCH_SIZE, *(model.limits.max_inputs for model in models if model.limits.max_inputs)])
            answer = answers.from_server(client, options, kind)
            await answer_in_order(blocks, answer, emit, batch_size=batch_size, calls_in_flight=CALLS_IN_FLIGHT)


async def _remote_chunks(
    client: AsyncClient, options: argparse.Namespace, kind: str, content: answers.Content
) -> AsyncIterator[Any]:
    request: dict[str, Any] = {"text" if kind == "texts" else kind: content, **answers.decoding_options(options)}
    async with client.stream(model=options.model_name, **request) as chunks:
        async for chunk in chunks:
            yield chunk


async def _stream(
    chunks_of: Callable[[answers.Content], AsyncIterator[Any]],
    options: argparse.Namespace, blocks: AsyncIterator[list[str]], kind: str,
) -> None:
    number = 0
    async for block in blocks:
        for line in block:
            number += 1
            if not line.strip():
                _print(_formatted(answers.Answer.blank(), options, number - 1) + "\n")
                continue
            try:
                await _stream_one(chunks_of(answers.parsed(line, number, kind)), options)
            except InvalidInput as error:
                if not (error.field or "").startswith("input"):
                    raise
                raise exits.CommandError(f"line {number}: {error.code.name}: {error}") from error


async def _stream_one(chunks: AsyncIterator[Any], options: argparse.Namespace) -> None:
    if options.json:
        async for chunk in chunks:
            record: dict[str, object] = {"text": chunk.text, "token_ids": chunk.token_ids}
            if chunk.result is not None:
                record["result"] = answers.Answer.of_result(chunk.result).record
            _print(json.dumps(record, ensure_ascii=False) + "\n")
        return
    shaped: Callable[[str], str] = str
    if terminal.drawn_on():
        shaped = terminal.safe if options.no_wrap else WordWrap(terminal.columns).push
    began = False
    try:
        async for chunk in chunks:
            piece = _piece(chunk, options)
            _print(shaped(piece if began else piece.removeprefix(" ") if options.token_ids else piece))
            began = began or bool(piece)
    except BaseException:
        # What is told next, be it by the shell, begins a line; whoever reads a file sees that this one has no end.
        if began and terminal.drawn_on():
            _print("\n")
        raise
    _print("\n")


def _piece(chunk: Any, options: argparse.Namespace) -> str:
    if options.token_ids:
        return "".join(f" {token_id}" for token_id in chunk.token_ids)
    if options.tokens:
        # Pieces come with the result only: the messages before it carry text and ids.
        return " ".join(chunk.result.hypotheses[0].tokens) if chunk.result else ""
    return str(chunk.text)


def several(options: argparse.Namespace) -> bool:
    """Whether more than one answer to a text is asked for."""
    return (options.num_hypotheses or 1) > 1


def _formatted(answer: answers.Answer, options: argparse.Namespace, number: int) -> str:
    """The lines of an answer, without the last line end; ``number`` counts answers from 0."""
    if options.json:
        return json.dumps(answer.record, ensure_ascii=False)
    shown = [_shown(hypothesis, options) for hypothesis in answer.hypotheses]
    if not several(options):
        return shown[0]
    scores = [f"{hypothesis.score:.6g}" for hypothesis in answer.hypotheses]
    return "\n".join(f"{number} ||| {text} ||| {score}" for text, score in zip(shown, scores, strict=True))


def _shown(hypothesis: Any, options: argparse.Namespace) -> str:
    if options.tokens:
        return " ".join(hypothesis.tokens)
    if options.token_ids:
        return " ".join(map(str, hypothesis.token_ids))
    return str(hypothesis.text)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
