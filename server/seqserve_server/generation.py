"""From requests that were read to answers: what every service that generates does alike, whatever its messages."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from seqserve_server.answers import Answer, Asked, Chunk, GrowingAnswer, answer_of, with_attention
from seqserve_server.attention import pairs_of, scorable, weights_of
from seqserve_server.request import Finished
from seqserve_server.served_models import Serving


async def generate(asked: Sequence[Asked], serving: Serving, *, size: int) -> list[Answer]:
    """Answers to the inputs of one call, when the last one ended. Cancelling the caller cancels them all.

    Args:
        size: Bytes of the message that they came in.

    Raises:
        ServerError: as ``Dispatcher.generate``.
    """
    ended = await serving.dispatcher.generate([each.request for each in asked], size=size)
    return await _answers(asked, ended, serving)


async def stream(asked: Asked, serving: Serving, *, size: int) -> AsyncGenerator[Chunk, None]:
    """Parts of one answer as they become final; the last has the whole. Closing the iterator cancels the request.

    What piles up while the caller is busy with a part comes as one.

    Args:
        size: Bytes of the message that it came in.

    Raises:
        ServerError: as ``Dispatcher.stream``.
    """
    growing = GrowingAnswer(asked, serving.model.tokenizer)
    # Closed here and now however this ends: a request must not run on for a caller that is gone.
    async with aclosing(serving.dispatcher.stream(asked.request, size=size)) as parts:
        async for part in parts:
            if isinstance(part, Finished):
                (answer,) = await _answers([asked], [part], serving)
                text, ids = growing.finish(answer)
                yield Chunk(text, ids, answer)
            else:
                text, ids = growing.push(part)
                yield Chunk(text, ids)


async def _answers(asked: Sequence[Asked], ended: Sequence[Finished], serving: Serving) -> list[Answer]:
    """After a pass of the scorer where the call's options ask for attention."""
    model = serving.model
    if not asked[0].options.wants_attention:
        return [answer_of(end, each, model.tokenizer) for each, end in zip(asked, ended, strict=True)]
    pairs = [
        pairs_of(end, each.request, each.options, model.description.eos_id)
        for each, end in zip(asked, ended, strict=True)
    ]
    wanted = [pair for some in pairs for pair in some if scorable(pair)]
    scored = iter(await serving.dispatcher.score(wanted, admitted=True))
    return [
        with_attention(end, weights_of(some, scored), each, model)
        for each, end, some in zip(asked, ended, pairs, strict=True)
    ]
