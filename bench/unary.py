"""What a call costs beside the engine: the same request through gRPC and in-process, in turns, nothing else running."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from processes import running_server
from seqserve_client import Client
from seqserve_server.local import LocalModel
from spread import Spread, table

SOURCE_TOKENS, NEW_TOKENS, WARM_UP = 12, 16, 20


@dataclass(frozen=True)
class Call:
    """Seconds of one request: in-process, through gRPC, what the server says it took inside; and of an empty call."""

    local: float
    remote: float
    inside: float
    empty: float


def measure(bundle: Path, count: int, threads: int) -> list[Call]:
    """One request at a time, ``count`` times each way."""
    calls: list[Call] = []
    flags = ("--threads", str(threads))
    with LocalModel.open(bundle, threads=threads) as model, running_server(bundle, *flags) as server:
        description, generator = model.description, random.Random(0)
        frame = description.framing.example()
        special = {description.eos_id, description.pad_id, *frame.prompt}
        allowed = [token for token in range(description.source_vocab_size) if token not in special]
        content = generator.choices(allowed, k=SOURCE_TOKENS)
        source = frame.complete(tuple(content))
        with Client(server.target) as client:
            for number in range(WARM_UP + count):
                begun = time.perf_counter()
                local = model.generate([source], min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)[0]
                middle = time.perf_counter()
                remote = client.generate(token_ids=[content], min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)[0]
                ended = time.perf_counter()
                client.health()
                empty = time.perf_counter() - ended
                if remote.hypotheses[0].token_ids != local.token_ids:
                    raise AssertionError("the server and the model in this process decode differently")
                if number >= WARM_UP:
                    calls.append(Call(middle - begun, ended - middle, remote.timing.total, empty))
    return calls


def report(calls: list[Call]) -> str:
    """Milliseconds, and the differences call by call."""
    def line(name: str, seconds: list[float]) -> list[str]:
        spread, ordered = Spread.of([value * 1e3 for value in seconds]), sorted(seconds)
        return [name, spread.text(2), f"{ordered[len(ordered) * 9 // 10] * 1e3:.2f}"]

    rows = [
        line("in-process", [call.local for call in calls]),
        line("through gRPC", [call.remote for call in calls]),
        line("difference (the overhead)", [call.remote - call.local for call in calls]),
        line("outside what the server counts as the request", [call.remote - call.inside for call in calls]),
        line("an empty gRPC call (health)", [call.empty for call in calls]),
    ]
    note = f"{len(calls)} calls each way, in turns; {SOURCE_TOKENS} content tokens, {NEW_TOKENS} new tokens."
    return table(["one request alone", "ms, median (min - max)", "90th percentile"], rows) + "\n\n" + note
