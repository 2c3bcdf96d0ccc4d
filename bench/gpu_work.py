"""What ``gpu.py`` does with a model: compare, decode, step. On CUDA, or over the twin when it is tried out."""

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_models import Bundles
from seqserve.bundle import read_model
from seqserve_server.capacity import Capacity
from seqserve_server.cuda_memory import CudaMemory, load_runtime
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.device_memory import DeviceMemory, HostMemory
from seqserve_server.devices import open_cuda, open_twin
from seqserve_server.engine import Layout, Source, StepInput
from seqserve_server.local import LocalModel
from seqserve_server.placement import Place
from seqserve_server.row_buckets import GraphNumbers
from seqserve_server.served_model import EngineLimits, ServedModel

CACHE_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rows: tuple[int, ...] = (1, 8, 64, 256)
    batches: tuple[int, ...] = (1, 64, 256)
    compared: int = 64
    new_tokens: int = 24
    source_tokens: int = 20
    repeats: int = 50

    @classmethod
    def tiny(cls) -> "Sizes":
        """To try the program out."""
        return cls((1, 3, 8), (1, 3), 4, 5, 6, 2)


@dataclass
class Opened:
    """A model on the device, ready as a server has it."""

    local: LocalModel
    told: dict[str, Any]

    @classmethod
    def of(cls, bundles: Bundles, sizes: Sizes, *, dry: bool) -> "Opened":
        """Open it and capture steps of every size."""
        begun = time.perf_counter()
        limits = EngineLimits(threads=1, max_rows=max(sizes.rows), cache_bytes=1 << 26 if dry else CACHE_BYTES)
        served = ServedModel.open(bundles.fp16, limits, verify=not dry)
        opened = time.perf_counter()
        engine = served.engine
        if not isinstance(engine, DeviceEngine):
            raise TypeError("not on a device")
        shapes = engine.prepare()
        return cls(LocalModel(served), {
            "seconds to open": opened - begun, "seconds to capture": time.perf_counter() - opened,
            "sizes captured": len(shapes), "MB of state": engine.state_bytes / 1e6,
        })


def sources(model: Any, count: int, length: int, *, ragged: bool = False) -> list[tuple[int, ...]]:
    """Seeded complete sources."""
    rng = random.Random(2017)
    size, most = model.source_vocab_size, model.max_source_length
    lengths = [min(rng.randrange(2, 2 * length) if ragged else length, most) for _ in range(count)]
    return [
        (*(rng.randrange(3, size - 2) for _ in range(one - 1)), *(model.source_suffix or (model.eos_id,)))
        for one in lengths
    ]


def memory(*, dry: bool) -> dict[str, Any]:
    """Random parts of random arrays, copied and zeroed on the device and by the twin."""
    there: DeviceMemory = HostMemory() if dry else CudaMemory(load_runtime())
    rng, wrong = random.Random(7), 0
    for _ in range(200):
        shape = [rng.randint(1, 6) for _ in range(rng.randint(1, 5))]
        index = tuple(slice(start := rng.randrange(size), rng.randint(start, size)) for size in shape)
        results = []
        for each in (there, HostMemory()):
            host = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float16).reshape(shape)
            one, other = each.allocate(shape, "float16"), each.allocate([size + 2 for size in shape], "float16")
            each.upload(host, one)
            each.copy(one[index], other[tuple(slice(0, size) for size in shape)][index])
            each.zero(one[index])
            found = [np.zeros(array.shape, dtype=array.dtype) for array in (one, other)]
            for array, into in zip((one, other), found, strict=True):
                each.download(array, into)
            each.synchronize()
            results.append(found)
        wrong += not all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    if wrong:
        raise AssertionError(f"{wrong} of 200 differ from the twin")
    return {"parts copied and zeroed as by the twin": 200}


def parity(opened: Opened, bundles: Bundles, sizes: Sizes) -> list[dict[str, Any]]:
    """Logits, greedy tokens and beams beside float32 on the CPU; and alone beside batches, which are other sizes."""
    local = opened.local
    given = sources(local.description, sizes.compared, sizes.source_tokens, ragged=True)
    limit = min(sizes.new_tokens, local.description.max_new_tokens)
    beams = [SearchSettings(local.description.eos_id, limit, beam_size=4, num_hypotheses=4)] * len(given)
    with LocalModel.open(bundles.fp32, verify=False, scorer=False, max_rows=64) as reference:
        greedy = reference.generate(given, max_new_tokens=limit)
        searched = reference.generate(given, searches=beams)
        fed = [answer.token_ids or [3] for answer in greedy[:8]]
        exact = np.concatenate([reference.step_logits(one, ids) for one, ids in zip(given, fed, strict=False)])
    logits = np.concatenate([local.step_logits(one, ids) for one, ids in zip(given, fed, strict=False)])
    normal = exact > -1e11  # suppressed tokens lie at -1e12
    errors = np.abs(logits - exact)[normal]
    mixed = local.generate(given, max_new_tokens=limit)
    alone = [local.generate([one], max_new_tokens=limit)[0] for one in given[: len(given) // 2]]
    again = local.generate(given, max_new_tokens=limit)
    found = local.generate(given, searches=beams)
    deviation = float(exact[normal].std())
    rows = [
        ("logits, largest error over deviation", float(errors.max()) / deviation),
        ("logits, mean error over deviation", float(errors.mean()) / deviation),
        ("logits, all finite", bool(np.isfinite(logits).all())),
        ("greedy: sources with the CPU's tokens", _equal(mixed, greedy)),
        ("greedy: the same tokens alone and in a batch", _equal(mixed, alone)),
        ("greedy: the same bits again", sum(list(a.log_probs) == list(b.log_probs) for a, b in zip(
            mixed, again, strict=True))),
        ("beams of 4: best hypothesis as the CPU's", _equal(found, searched)),
        ("of sources, alone", f"{len(given)}, {len(alone)}"),
    ]
    return [{"what": name, "value": value} for name, value in rows]


def _equal(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(a.token_ids == b.token_ids for a, b in zip(one, other, strict=False))


def serving(opened: Opened, sizes: Sizes) -> list[dict[str, Any]]:
    """Closed batches through loop and scheduler: new tokens a second, and between two tokens of one caller."""
    local, rows = opened.local, []
    limit = min(sizes.new_tokens, local.description.max_new_tokens)
    for count in sizes.batches:
        given = sources(local.description, count, sizes.source_tokens)
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            answers = local.generate(given, max_new_tokens=limit, min_new_tokens=limit)
            times.append(time.perf_counter() - begun)
        tokens = sum(len(answer.token_ids) for answer in answers)
        best = statistics.median(times[1:])
        rows.append({"callers": count, "tokens/s": tokens / best, "ms a token and caller": best * 1e3 * count / tokens})
    return rows


def steps(bundles: Bundles, sizes: Sizes, *, dry: bool) -> list[dict[str, Any]]:
    """Milliseconds of a step at position 24 over sources of 20, captured and eager, and of encoding that many."""
    model = read_model(bundles.fp16)
    found: dict[int, dict[str, Any]] = {}
    for eager in (False, True):
        if dry:
            engine = open_twin(bundles.fp16, model, cache_bytes=1 << 26, max_rows=max(sizes.rows), threads=1)
        else:
            engine = open_cuda(bundles.fp16, model, cache_bytes=CACHE_BYTES, max_rows=max(sizes.rows))
        if eager:
            engine.graphs = GraphNumbers(most=0)
        for rows in sizes.rows:
            times = _step_times(engine, rows, sizes)
            entry = found.setdefault(rows, {"rows": rows})
            entry["encode, ms"] = times[0]
            name = "eager" if eager else "captured"
            entry |= {f"{name}, ms": statistics.median(times[1:]), f"{name}, least": min(times[1:])}
        del engine
    return list(found.values())


def _step_times(engine: DeviceEngine, rows: int, sizes: Sizes) -> list[float]:
    """Of encoding, then of the same step again and again: it writes the same position each time."""
    model = engine.model
    position = min(sizes.new_tokens, model.max_target_length - 1)
    given = sources(model, rows, sizes.source_tokens)
    engine.reserve(Capacity(rows, position + 1, max(map(len, given)), (rows,)))
    entries = [Source(row, (Place(0, row),), source) for row, source in enumerate(given)]
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        engine.encode(entries)
        engine.synchronize()
        times = [(time.perf_counter() - begun) * 1e3]
    step = StepInput(
        [5] * rows, [position] * rows, 2, Layout([0] * rows, list(range(rows)), [0] * rows, [rows])
    )
    for number in range(sizes.repeats + 3):
        begun = time.perf_counter()
        engine.step(step)
        if number >= 3:  # the first captures
            times.append((time.perf_counter() - begun) * 1e3)
    return times

