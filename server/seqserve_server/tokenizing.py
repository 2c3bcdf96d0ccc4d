"""Texts to ids and ids to texts for callers that generate nothing: checked first, then worked off in slices.

Away from the event loop, which carries every stream: a message full of text is tokenised for a second. One slice at a
time, however many callers there are, so that they take one core from the engine at most; slices of several callers take
turns, and a caller that is gone costs no more than the slice under way.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from seqserve.bundle import ModelDescription
from seqserve.framing import LanguageError
from seqserve.text_errors import UnencodableText
from seqserve_server.errors import InvalidRequest
from seqserve_server.served_model import ServedModel
from seqserve_server.tokenizer import Tokenizer

SLICE = 16384  # characters or ids: some milliseconds of work

Item = TypeVar("Item", str, Sequence[int])
Answer = TypeVar("Answer")


class Tokenizing:
    """Works for every caller of a server; belongs to its event loop.

    Args:
        max_inputs: Most texts, or sequences of ids, of one call.
        max_text_bytes: Most UTF-8 bytes of one text.
    """

    def __init__(self, *, max_inputs: int, max_text_bytes: int) -> None:
        self._max_inputs, self._max_text_bytes = max_inputs, max_text_bytes
        self._turn = asyncio.Lock()

    async def tokenize(
        self, texts: Sequence[str], model: ServedModel, form: Callable[[list[int], list[str]], Answer], *,
        add_special_tokens: bool, source_language: str | None = None,
    ) -> list[Answer]:
        """One result per text.

        Args:
            form: Makes it from the ids and the source's entry of each; called in the worker's thread too.

        Raises:
            InvalidRequest: naming the text and the limit.
        """
        tokenizer = _tokenizer(model)
        _check_count(len(texts), "texts", self._max_inputs)
        for place, text in enumerate(texts):
            if (size := len(text.encode())) > self._max_text_bytes:
                raise InvalidRequest(f"texts[{place}]", f"{size} bytes are over the limit of {self._max_text_bytes}")
        prefix, suffix = _around(model.description, add_special_tokens, source_language)

        def tokenized(place: int, text: str) -> Answer:
            try:
                ids = [*prefix, *tokenizer.encode(text), *suffix]
            except UnencodableText as error:
                raise InvalidRequest(f"texts[{place}]", str(error)) from None
            return form(ids, tokenizer.source_tokens(ids))

        return await self._work_off(texts, tokenized)

    async def detokenize(self, sequences: Sequence[Sequence[int]], model: ServedModel) -> list[str]:
        """One text per sequence of ids.

        Raises:
            InvalidRequest: naming the sequence or the id, and the limit.
        """
        tokenizer = _tokenizer(model)
        _check_count(len(sequences), "token_ids", self._max_inputs)
        for place, ids in enumerate(sequences):
            _check_target_ids(ids, model.description, f"token_ids[{place}]")
        return await self._work_off(sequences, lambda _, ids: tokenizer.decode(ids))

    async def _work_off(self, items: Sequence[Item], work: Callable[[int, Item], Answer]) -> list[Answer]:
        answers: list[Answer] = []
        for begin, end in _slices([len(item) for item in items]):
            async with self._turn:
                answers += await asyncio.to_thread(
                    lambda first, last: [work(place, items[place]) for place in range(first, last)], begin, end
                )
        return answers


def _slices(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Bounds of runs of items whose sizes add up to one ``SLICE``, or a little more."""
    begin, size = 0, 0
    for place, item in enumerate(sizes):
        size += item + 1  # an empty one is work too
        if size >= SLICE:
            yield begin, place + 1
            begin, size = place + 1, 0
    if begin < len(sizes):
        yield begin, len(sizes)


def _tokenizer(model: ServedModel) -> Tokenizer:
    if model.tokenizer is None:
        raise InvalidRequest("model", "this model has no tokenizer; it takes and returns token ids")
    return model.tokenizer


def _around(
    model: ModelDescription, add_special_tokens: bool, source_language: str | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after each text."""
    if not add_special_tokens and source_language is None:
        return (), ()
    try:
        # Nothing is generated, so no target language is asked for.
        frame = dataclasses.replace(model.framing, decoder_prompt=(model.eos_id,)).frame(source_language)
    except LanguageError as error:
        raise InvalidRequest(error.field, str(error)) from None
    return (frame.prefix, frame.suffix) if add_special_tokens else ((), ())


def _check_count(count: int, field: str, limit: int) -> None:
    if not 1 <= count <= limit:
        raise InvalidRequest(field, f"{count} entries are outside 1..{limit}")


def _check_target_ids(ids: Sequence[int], model: ModelDescription, field: str) -> None:
    if len(ids) > model.max_target_length:
        raise InvalidRequest(field, f"{len(ids)} ids are over the limit of {model.max_target_length}")
    last = model.target_vocab_size - 1
    if ids and not (min(ids) >= 0 and max(ids) <= last):
        place, token_id = next((place, token_id) for place, token_id in enumerate(ids) if not 0 <= token_id <= last)
        raise InvalidRequest(f"{field}[{place}]", f"id {token_id} is outside 0..{last}")
