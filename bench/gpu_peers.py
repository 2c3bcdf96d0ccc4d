"""The systems that ``gpu.py`` compares with, on one Marian model of 61 million parameters, each if it is installed.

Closed batches of 20 source tokens and 24 new ones, greedy, half precision: what each does best.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCHES, SOURCE, NEW = (1, 64, 256), 20, 24
Rows = list[dict[str, Any]]


def ctranslate2(work: Path, *, dry: bool) -> Rows:
    """CTranslate2, float16."""
    import ctranslate2 as library

    device, kind = ("cpu", "float32") if dry else ("cuda", "float16")
    translator = library.Translator(str(_directories(work)[1]), device=device, compute_type=kind)

    def run(batch: list[list[int]]) -> int:
        results = translator.translate_batch(
            [[*map(str, source), "</s>"] for source in batch], beam_size=1, min_decoding_length=NEW,
            max_decoding_length=NEW,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return _timed(f"CTranslate2 {library.__version__} {kind}", run, dry)


def transformers(work: Path, *, dry: bool) -> Rows:
    """``generate`` of transformers, float16."""
    import torch
    import transformers as library

    device, kind = ("cpu", torch.float32) if dry else ("cuda", torch.float16)
    model = library.MarianMTModel.from_pretrained(_directories(work)[0], dtype=kind).to(device).eval()

    @torch.inference_mode()
    def run(batch: list[list[int]]) -> int:
        from workload import complete

        ids = torch.tensor([complete(source) for source in batch], device=device)
        outputs = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, do_sample=False, min_new_tokens=NEW,
            max_new_tokens=NEW,
        )
        if not dry:
            torch.cuda.synchronize()
        return int(outputs[:, 1:].numel())

    return _timed(f"transformers {library.__version__} {kind}", run, dry)


def pytorch(work: Path, *, dry: bool) -> Rows:
    """The model that is exported, in PyTorch: half precision, keys and values kept, one operator after the other."""
    import torch

    from gpu_models import make_bundles
    from seqserve_export.families import choose_family

    bundles = make_bundles("marian", work, tiny=dry)
    model = choose_family(bundles.checkpoint).read(bundles.checkpoint).model
    device = "cpu" if dry else "cuda"
    if not dry:
        model = model.half().cuda()
    config = model.config

    @torch.inference_mode()
    def run(batch: list[list[int]]) -> int:
        ids = torch.tensor([[*source, config.eos_id] for source in batch], device=device) % config.source_vocab_size
        lengths = torch.full((len(batch),), ids.shape[1], device=device)
        state = model.begin(model.encode(ids, lengths), lengths)
        tokens = torch.full((len(batch), 1), config.decoder_start_id, device=device)
        for _ in range(NEW):
            tokens = model.decode(tokens, state)[:, -1].argmax(dim=-1, keepdim=True)
        tokens.cpu()
        return len(batch) * NEW

    return _timed(f"PyTorch {torch.__version__} {next(model.parameters()).dtype}", run, dry)


PEERS: tuple[Callable[..., Rows], ...] = (ctranslate2, transformers, pytorch)


def _directories(work: Path) -> tuple[Path, Path]:
    """Of transformers and of CTranslate2, made by what ``make bench`` makes them by."""
    import make_models

    directory = work / "peers"
    made = directory / make_models.HUGGING_FACE, directory / make_models.CTRANSLATE2
    if not (made[1] / "model.bin").is_file():
        make_models.write(directory)
    return made


def _timed(name: str, run: Callable[[list[list[int]]], int], dry: bool) -> Rows:
    from workload import contents

    rows: Rows = []
    for count in (1, 2) if dry else BATCHES:
        batch = contents(count)
        times = []
        for _ in range(2 if dry else 4):
            begun = time.perf_counter()
            tokens = run(batch)
            times.append(time.perf_counter() - begun)
        best = statistics.median(times[1:])
        rows.append({"system": name, "callers": count, "tokens/s": tokens / best,
                     "ms a token and caller": best * 1e3 * count / tokens})
    return rows
