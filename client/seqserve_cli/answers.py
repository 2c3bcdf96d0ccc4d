"""Where ``seqserve generate`` gets its answers: from a server, or from a bundle decoded in this process."""

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from seqserve_cli import exits
from seqserve_client import AsyncClient, GenerationOptions, InvalidInput, Result

Content = str | list[str] | list[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, in each of the forms that it may be printed in."""

    text: str
    tokens: list[str]
    token_ids: list[int]
    record: dict[str, Any]

    @classmethod
    def blank(cls) -> Self:
        """What stands for a blank line, which is never sent."""
        return cls("", [], [], {"text": "", "hypotheses": []})

    @classmethod
    def of_result(cls, result: Result) -> Self:
        """From a result of the client."""
        best = result.hypotheses[0]
        return cls(best.text, best.tokens, best.token_ids, {"text": best.text, **asdict(result)})

    @classmethod
    def of_local(cls, generated: Any) -> Self:
        """From a ``seqserve_server.local.GeneratedText``, which has no wire and no queue to tell times of."""
        names = ("text", "tokens", "token_ids", "score")
        hypothesis = {name: getattr(generated, name) for name in names}
        record = {"text": generated.text, "hypotheses": [hypothesis], "finish_reason": generated.finish_reason}
        return cls(generated.text, generated.tokens, generated.token_ids, record)


def decoding_options(options: argparse.Namespace) -> GenerationOptions:
    """The options of the command line that go with each request."""
    return {"max_new_tokens": options.max_new_tokens, "min_new_tokens": options.min_new_tokens}


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


def from_bundle(options: argparse.Namespace) -> AnswerLines:
    """Answers of a bundle, loaded here."""
    from seqserve.bundle import BundleError
    from seqserve_server.errors import InvalidRequest, ServerError
    from seqserve_server.local import LocalModel

    try:
        model = LocalModel.open(Path(options.model))
    except (BundleError, ServerError, OSError) as error:
        raise exits.CommandError(str(error)) from error

    async def ask(contents: list[Any]) -> list[Answer]:
        try:
            generated = await asyncio.to_thread(model.generate_texts, contents, **decoding_options(options))
        except InvalidRequest as error:
            raise InvalidInput(str(error), field=error.field.replace("texts[", "inputs[")) from error
        except ServerError as error:
            raise exits.CommandError(str(error)) from error
        return [Answer.of_local(each) for each in generated]

    return skipping_blanks("texts", ask)
