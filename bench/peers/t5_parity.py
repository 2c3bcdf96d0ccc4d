"""Compare the ``t5`` family with transformers: logits, and greedy ``generate`` token by token.

transformers is no dependency of this project; run this where it is installed, beside torch and safetensors:

    PYTHONPATH=bench:export:proto python bench/peers/t5_parity.py [--models DIR ... --data DATA] [--write DIR]

Random models of every kind, and trained directories with ``--models``: these on sentences, where ``--data`` names
Multi30k's folder. ``--write`` saves one small model and what transformers computes with it; tests/data/t5 was made so.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from multi30k import sentences
from seqserve_export import reference
from seqserve_export.families import LoadedCheckpoint, choose_family

try:
    import transformers
except ImportError:
    sys.exit("t5_parity: transformers is not installed here; make bench-peers installs it")

SENTENCES, TEXTS, LIMIT, TOLERANCE = 48, 200, 40, 1e-4
LONGEST = 200  # past the last bucket, which begins at a distance of 128
TIE = 1e-4  # two candidates closer than this may be chosen either way
VARIANTS: dict[str, dict[str, Any]] = {
    "T5, relu, tied": {},
    "T5 v1.1, gated gelu, untied": {"feed_forward_proj": "gated-gelu", "untied": True},
    "T5, gated silu, tied": {"feed_forward_proj": "gated-silu"},
    "T5, exact gelu, 3 + 1 layers": {"feed_forward_proj": "gelu", "num_layers": 3, "num_decoder_layers": 1},
    "T5, 3 heads of 20, 16 buckets": {"num_heads": 3, "d_kv": 20, "relative_attention_num_buckets": 16,
                                      "relative_attention_max_distance": 40},
    "mT5, untied": {"mt5": True, "feed_forward_proj": "gated-gelu", "untied": True, "num_decoder_layers": 3},
    "mT5 as transformers 5 makes it": {"mt5": True, "feed_forward_proj": "gated-gelu"},
}


def write_random(directory: Path, untied: bool = False, mt5: bool = False, **changes: Any) -> None:
    """A small model as transformers saves it, with weights large enough for varied outputs."""
    values = {
        "vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, **changes,
    }
    if mt5:
        model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**values)).eval()
    else:
        values["tie_word_embeddings"] = not untied
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**values)).eval()
    width, size = values["d_model"], values["d_kv"]
    for name, tensor in model.state_dict().items():
        if "layer_norm" in name:
            tensor.copy_(1.0 + 0.2 * torch.randn_like(tensor))
        elif "relative_attention_bias" in name:
            tensor.copy_(2.0 * torch.randn_like(tensor))
        elif name not in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            # Sharp attention and a weak feed-forward part: otherwise a random model repeats one token for ever.
            std = tensor.shape[-1] ** -0.5 * (4 * size**-0.5 if ".q." in name else 0.4 if "Dense" in name else 1.0)
            tensor.copy_((1.0 if name == "shared.weight" else std) * torch.randn_like(tensor))
    model.generation_config.max_length = LIMIT
    model.save_pretrained(directory)
    if untied:
        # transformers 5 ties every T5 that it makes, and leaves one apart that it reads with an output of its own.
        tensors = load_file(directory / "model.safetensors")
        scale = 0.3 if mt5 else width**-0.5
        tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape) * scale
        tensors["lm_head.weight"][1] *= 1.5  # so that some sentences end by themselves
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def open_theirs(directory: Path) -> Any:
    """The model of the directory's own class."""
    kind = json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"]
    cls = transformers.MT5ForConditionalGeneration if kind == "mt5" else transformers.T5ForConditionalGeneration
    return cls.from_pretrained(directory).eval()


def make_sources(checkpoint: LoadedCheckpoint, count: int) -> list[list[int]]:
    """Random ids with the end token: mostly short, one in eight past the last bucket."""
    chooser, size = random.Random(0), checkpoint.transformer.config.source_vocab_size
    lengths = [LONGEST - number if number % 8 == 7 else 1 + number % 23 for number in range(count)]
    return [
        [*(chooser.randrange(3, size) for _ in range(length)), *map(int, checkpoint.source_suffix)]
        for length in lengths
    ]


def read_sentences(directory: Path, data: Path) -> list[list[int]]:
    """English sentences by the directory's tokenizer, and a few of them run together past the last bucket."""
    texts = sentences(data, "en")[:TEXTS]
    texts += [" ".join(texts[first : first + 20]) for first in range(0, 80, 20)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return [tokenizer(text)["input_ids"] for text in texts]


def compare(directory: Path, data: Path | None) -> tuple[float, int, int, int, list[str]]:
    """Largest logits error, sentences, those decoded differently, tokens compared, and a line for every tie."""
    theirs, checkpoint = open_theirs(directory), choose_family(directory).read(directory)
    ours, config = checkpoint.transformer, checkpoint.transformer.config
    sources = make_sources(checkpoint, SENTENCES) if data is None else read_sentences(directory, data)
    count = len(sources)
    ids, lengths = reference.pad(sources, config.pad_id)
    mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
    target = torch.randint(3, config.target_vocab_size, (count, 150))
    target[:, 0] = config.decoder_start_id
    limit = min(LIMIT, checkpoint.default_max_new_tokens)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
        error = float((ours(ids, lengths, target) - expected).abs().max())
        generated = theirs.generate(
            input_ids=ids, attention_mask=mask, num_beams=1, do_sample=False, max_new_tokens=limit,
            # Theirs has a place for every layer of the encoder only.
            use_cache=config.decoder_layers <= config.encoder_layers,
        )
    decoded = reference.greedy(ours, sources, limit)
    different, compared, ties = 0, 0, []
    for number, (row, result) in enumerate(zip(generated.tolist(), decoded, strict=True)):
        mine = [*result.token_ids, *([config.eos_id] if result.finish_reason == "eos" else [])]
        compared += len(mine)
        if mine + [config.pad_id] * (len(row) - 1 - len(mine)) == row[1:]:
            continue
        place = next(place for place, token in enumerate(mine) if token != row[1 + place])
        gap = float(result.logits[place][mine[place]] - result.logits[place][row[1 + place]])
        if gap < TIE:
            ties.append(f"  sentence {number}, token {place}: {mine[place]} and {row[1 + place]} are {gap:.1e} apart")
        else:
            different += 1
    return error, count, different, compared, ties


def report(name: str, directory: Path, data: Path | None = None) -> bool:
    """Print one line; whether anything differs."""
    error, count, different, compared, ties = compare(directory, data)
    print(
        f"{name:32} logits error {error:.1e}   sentences {count}, different {different}, at a tie {len(ties)}   "
        f"tokens compared {compared}"
    )
    for line in ties:
        print(line)
    return error > TOLERANCE or different > 0


def write(directory: Path) -> None:
    """A T5 directory as transformers saves it, and expected.json beside it."""
    write_random(
        directory, vocab_size=60, d_model=12, d_kv=5, num_heads=2, d_ff=16, num_decoder_layers=1,
        feed_forward_proj="gated-gelu", untied=True, relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
    )
    model, chooser = open_theirs(directory), random.Random(0)
    lengths = [*range(14), 30, 60]
    sources = [[*(chooser.randrange(3, 60) for _ in range(length)), 1] for length in lengths]
    target = [0, *(chooser.randrange(3, 60) for _ in range(29))]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sources[-1]]), decoder_input_ids=torch.tensor([target])).logits[0]
        greedy = [
            model.generate(input_ids=torch.tensor([source]), num_beams=1, do_sample=False)[0].tolist()
            for source in sources
        ]
    values = [[round(value, 5) for value in row] for row in logits.tolist()]
    expected = {
        "transformers": transformers.__version__, "sources": sources, "greedy": greedy,
        "logits": {"source": len(sources) - 1, "decoder_input_ids": target, "values": values},
    }
    (directory / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def main() -> int:
    """Print one line per model; 1 when any differs."""
    parser = argparse.ArgumentParser(description="Compare the t5 family with transformers.")
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help="trained directories")
    parser.add_argument("--data", type=Path, metavar="DATA", help="folder with Multi30k, for trained directories")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save a model and its results instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if args.write is not None:
        write(args.write)
        return 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    failed = False
    for name, changes in VARIANTS.items():
        with tempfile.TemporaryDirectory() as directory:
            write_random(Path(directory), **changes)
            failed |= report(name, Path(directory))
    for directory in args.models:
        failed |= report(directory.name, directory, args.data)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
