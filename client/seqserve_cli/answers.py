"""Where ``seqserve generate`` gets its answers: from a server, or from a bundle decoded in this process."""

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

from seqserve_cli import exits
from seqserve_client import AsyncClient, GenerationOptions, Hypothesis, InputTooLong, InvalidInput, ScoreOptions

Content = str | list[str] | list[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``hypotheses`` are the client's, best first, and at least one; ``record`` is what --json prints."""

    hypotheses: list[Any]
    record: dict[str, Any]

    @classmethod
    def blank(cls) -> Self:
        """What stands for a blank line, which is never sent."""
        return cls([Hypothesis("", [], [], 0.0)], {"text": "", "hypotheses": []})

    @classmethod
    def of_result(cls, result: Any) -> Self:
        """From a result of the client, or of ``seqserve_server.in_process``, which has the same fields.

        What was not asked for is left out of the record: log-probabilities of tokens, the seed of no draw, a cut of
        nothing.
        """
        record = {"text": result.hypotheses[0].text, **asdict(result)}
        if record["seed"] is None:
            del record["seed"]
        if not record["truncated_token_count"]:
            del record["truncated_token_count"]
        if not record["source_tokens"]:
            del record["source_tokens"]
        for hypothesis in record["hypotheses"]:
            if not hypothesis["token_log_probs"]:
                del hypothesis["token_log_probs"]
            if hypothesis["alignment"] is None:
                del hypothesis["alignment"]
        return cls(result.hypotheses, record)


def decoding_options(options: argparse.Namespace) -> GenerationOptions:
    """The options of the command line that go with each request; not every command has all of them."""
    given = {name: getattr(options, name, None) for name in GenerationOptions.__annotations__}
    return cast(GenerationOptions, given)


def parsed(line: str, number: int, kind: str) -> Content:
    """A line as the kind of input it holds: "texts", "tokens" or "token_ids"."""
    if kind == "texts":
        return line
    words = line.split()
    if kind == "tokens":
        return words
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise exits.CommandError(f"line {number}: token ids are whole numbers: {error}") from None


AnswerLines = Callable[[int, list[str]], Awaitable[list[Answer]]]


def skipping_blanks(kind: str, ask: Callable[[list[Any]], Awaitable[list[Answer]]]) -> AnswerLines:
    """Ask for the lines that are not blank, and name the line, not the place in the call, where one is refused."""

    async def answer(first: int, lines: list[str]) -> list[Answer]:
        places = [place for place, line in enumerate(lines) if line.strip()]
        contents = [parsed(lines[place], first + place, kind) for place in places]
        answers = [Answer.blank()] * len(lines)
        try:
            for place, result in zip(places, await ask(contents) if contents else [], strict=True):
                answers[place] = result
        except InvalidInput as error:
            if found := re.match(r"inputs\[(\d+)\]", error.field or ""):
                line = first + places[int(found[1])]
                raise exits.CommandError(f"line {line}: {error.code.name}: {error}") from error
            raise
        return answers

    return answer


def from_server(client: AsyncClient, options: argparse.Namespace, kind: str) -> AnswerLines:
    """Answers of a server."""

    async def ask(contents: list[Any]) -> list[Answer]:
        arguments: dict[str, Any] = {kind: contents, **decoding_options(options)}
        results = await client.generate(model=options.model_name, **arguments)
        return [Answer.of_result(result) for result in results]

    return skipping_blanks(kind, ask)


class Bundle:
    """A bundle, loaded here, with errors as a client would get them."""

    def __init__(self, path: str) -> None:
        from seqserve.bundle import BundleError
        from seqserve_server import errors
        from seqserve_server.in_process import InProcess
        from seqserve_server.local import LocalModel

        self._too_long, self._invalid, self._failure = errors.InputTooLong, errors.InvalidRequest, errors.ServerError
        try:
            self._model = InProcess(LocalModel.open(Path(path)))
        except (BundleError, errors.ServerError, OSError) as error:
            raise exits.CommandError(str(error)) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._too_long as error:
            counts = {"inputTokenCount": str(error.count), "maxInputTokens": str(error.limit)}
            raise InputTooLong(str(error), field=error.field, metadata=counts) from error
        except self._invalid as error:
            raise InvalidInput(str(error), field=error.field) from error
        except self._failure as error:
            raise exits.CommandError(str(error)) from error

    def generate(self, options: argparse.Namespace, kind: str, contents: list[Any]) -> list[Any]:
        """Results with the fields of the client's."""
        with self._errors():
            return list(self._model.generate(IN_PROCESS_KINDS[kind], contents, **decoding_options(options)))

    @property
    def alignment_source(self) -> str:
        """The model, and whose attention its alignments are."""
        return self._model.alignment_source

    def score(self, pairs: list[Any], options: ScoreOptions) -> list[Any]:
        """Results with the fields of the client's, of pairs of sources and targets, each with its kind."""
        with self._errors():
            return list(self._model.score(pairs, **options))

    def answers(self, options: argparse.Namespace, kind: str) -> AnswerLines:
        """Answers to lines of one kind."""

        async def ask(contents: list[Any]) -> list[Answer]:
            results = await asyncio.to_thread(self.generate, options, kind, contents)
            return [Answer.of_result(result) for result in results]

        return skipping_blanks(kind, ask)

    async def results(self, options: argparse.Namespace, texts: list[str]) -> list[Any]:
        """Results of texts; one call at a time."""
        def generate() -> list[Any]:
            with self._errors():
                return self._model.generate("text", texts, **decoding_options(options))

        return await asyncio.to_thread(generate)

    async def stream(self, options: argparse.Namespace, kind: str, content: Content) -> AsyncIterator[Any]:
        """Chunks of one answer. Nobody else is waiting, so the event loop may be held up by each step.

        Between two steps it gets its turn all the same, or an interrupt would be heard at the answer's end.
        """
        with self._errors():
            for chunk in self._model.stream(IN_PROCESS_KINDS[kind], content, **decoding_options(options)):
                yield chunk
                await asyncio.sleep(0)


IN_PROCESS_KINDS = {"texts": "text", "tokens": "tokens", "token_ids": "token_ids"}
