"""CTranslate2 behind a window of dynamic batching, serving our ``Generate``, so that one load generator drives both.

    python -m peers.ctranslate_server MODEL [--tokenizer FILE] [--window-ms 5]     in the peers' environment

Requests are collected until the first of them is ``--window-ms`` old or ``--max-batch`` are there; then one
``translate_batch`` decodes them, and what comes meanwhile waits for the next. A batch is decoded to the longest limit
in it and every answer cut at its own: CTranslate2 knows one limit a batch, and real models end by themselves.
"""

import argparse
import asyncio
import sys
from typing import Any

import ctranslate2
import grpc
import grpc.aio
from tokenizers import Tokenizer

from peers.window import Waiting, Window
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve.v1 import seq2seq_pb2_grpc as rpc
from workload import EOS_ID, THREADS

END, MAX_NEW_TOKENS = "</s>", 256


class Service(rpc.Seq2SeqServiceServicer):
    """``Generate`` for calls of one input."""

    def __init__(self, window: Window, tokenizer: Any) -> None:
        self._window, self._tokenizer = window, tokenizer

    async def Generate(self, request: Any, context: Any) -> Any:
        """Text where there is a tokenizer, ids of the random model where there is none."""
        options, (given,) = request.options, request.inputs
        if (self._tokenizer is not None) != (given.WhichOneof("content") == "text"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "text with a tokenizer, ids without one")
        if self._tokenizer is not None:
            pieces = self._tokenizer.encode(given.text, add_special_tokens=False).tokens
        else:
            pieces = [*map(str, given.token_ids.ids), END]
        most = options.max_new_tokens or MAX_NEW_TOKENS
        answer = await self._window.ask(pieces, options.min_new_tokens, most)
        hypothesis = pb.Hypothesis(token_ids=self._ids(answer))
        if self._tokenizer is not None:
            hypothesis.tokens.extend(answer)
            hypothesis.text = self._tokenizer.decoder.decode(answer)
        ended = len(answer) < most
        return pb.GenerateResponse(results=[pb.GenerationResult(
            hypotheses=[hypothesis], input_token_count=len(pieces), output_token_count=len(answer) + ended,
            finish_reason=pb.FINISH_REASON_EOS if ended else pb.FINISH_REASON_LENGTH,
        )])

    def _ids(self, pieces: list[str]) -> list[int]:
        if self._tokenizer is not None:
            return [self._tokenizer.token_to_id(piece) for piece in pieces]
        return [EOS_ID if piece == END else int(piece) for piece in pieces]


async def serve(given: argparse.Namespace) -> None:
    """Until the process ends."""
    translator = ctranslate2.Translator(
        given.model, device="cpu", compute_type=given.precision, inter_threads=given.inter_threads,
        intra_threads=given.intra_threads,
    )

    def decode(batch: list[Waiting]) -> list[list[str]]:
        results = translator.translate_batch(
            [waiting.pieces for waiting in batch], beam_size=1,
            min_decoding_length=min(waiting.least for waiting in batch),
            max_decoding_length=max(waiting.most for waiting in batch),
        )
        return [result.hypotheses[0][: waiting.most] for waiting, result in zip(batch, results, strict=True)]

    window = Window(decode, given.window_ms / 1e3, given.max_batch, given.inter_threads)
    server = grpc.aio.server()
    tokenizer = Tokenizer.from_file(given.tokenizer) if given.tokenizer else None
    rpc.add_Seq2SeqServiceServicer_to_server(Service(window, tokenizer), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port} metrics=none ctranslate2={ctranslate2.__version__}", flush=True)
    await window.run()


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", help="tokenizer.json, for models with texts")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--window-ms", type=float, default=5.0)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--inter-threads", type=int, default=1, help="batches at a time (%(default)s)")
    parser.add_argument("--intra-threads", type=int, default=THREADS, help="threads of each (%(default)s)")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
