"""The demonstration model at the size of OPUS-MT's: the same translations at the cost of 61 million parameters.

    PYTHONPATH=bench:export:proto .venv-peers/bin/python -m peers.grown_demo demo/en-de DATA OUT

writes ``OUT/native``, ``OUT/ctranslate2``, and sentences to prove bundles on. One of that size takes weeks to train;
a benchmark needs one whose answers end where sentences end, and that costs what such models cost. So every state is
there four times (128 -> 512), every head twice over and of twice its size (4 x 32 -> 8 x 64), every unit between eight
times (256 -> 2048), with weights divided by as much; two layers a side are added (4 -> 6) that add next to nothing; and
the vocabulary is filled up with entries that never win (8000 -> 32000). Layers are normed as before: of four copies
mean and variance are those of one.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import ctranslate2
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from multi30k import sentences
from peers.demo_models import to_ctranslate2, token_names
from seqserve_export.families import native

COPIES, INNER_COPIES, HEADS, HEAD, LAYERS, VOCABULARY = 4, 8, 8, 64, 6, 32_000
FAINT = 1e-6  # not 0, which has no scale in int8
Tensors = dict[str, Tensor]


def grown_attention(scope: str, old: Tensors, heads: int, head: int) -> Tensors:
    """One attention: head j is what head j % heads was, its size doubled by a copy, its queries scaled for that."""
    places = [(j % heads) * head + d % head for j in range(HEADS) for d in range(HEAD)]
    # A product of doubled heads is doubled, and is divided by the root of twice the size.
    scales = {"query": math.sqrt(HEAD / head) / (HEAD / head), "key": 1.0, "value": 1.0}
    found = {}
    for name, scale in scales.items():
        found[f"{scope}.{name}.weight"] = scale * old[f"{scope}.{name}.weight"][places].repeat(1, COPIES) / COPIES
        found[f"{scope}.{name}.bias"] = scale * old[f"{scope}.{name}.bias"][places]
    found[f"{scope}.output.weight"] = old[f"{scope}.output.weight"][:, places].repeat(COPIES, 1) / COPIES
    found[f"{scope}.output.bias"] = old[f"{scope}.output.bias"].repeat(COPIES)
    return found


def grown_layer(scope: str, old: Tensors, heads: int, head: int) -> Tensors:
    """One layer of either side."""
    found: Tensors = {}
    for name in ("attention", "cross"):
        if f"{scope}.{name}.query.weight" in old:
            found |= grown_attention(f"{scope}.{name}", old, heads, head)
    inner, outer = f"{scope}.ffn.inner", f"{scope}.ffn.outer"
    found[f"{inner}.weight"] = old[f"{inner}.weight"].repeat(INNER_COPIES, COPIES) / COPIES
    found[f"{inner}.bias"] = old[f"{inner}.bias"].repeat(INNER_COPIES)
    found[f"{outer}.weight"] = old[f"{outer}.weight"].repeat(COPIES, INNER_COPIES) / INNER_COPIES
    found[f"{outer}.bias"] = old[f"{outer}.bias"].repeat(COPIES)
    for name in old:
        if name.startswith(scope) and "_norm." in name:
            found[name] = old[name].repeat(COPIES)
    return found


def faint(layer: Tensors, seed: int) -> Tensors:
    """The layer with next to nothing coming out of it, and noise in it: converters store equal tensors once."""
    out = ("output.weight", "output.bias", "outer.weight", "outer.bias")
    generator = torch.Generator().manual_seed(seed)
    noisy = {
        name: tensor * (1 + 0.01 * torch.randn(tensor.shape, generator=generator)) for name, tensor in layer.items()
    }
    return {name: tensor * FAINT if name.endswith(out) else tensor for name, tensor in noisy.items()}


def grown(old: Tensors, positions: Tensor, layers: int, heads: int, head: int) -> Tensors:
    """All tensors."""
    table = old["source_embedding.tokens.weight"]
    # Half, since the embedding's scale is the root of the width, which is doubled; the last norm makes up for it.
    words = table.repeat(1, COPIES) / 2
    filling = torch.full((VOCABULARY - len(words), words.shape[1]), FAINT)
    found = {"source_embedding.tokens.weight": torch.cat([words, filling])}
    for side in ("source", "target"):
        found[f"{side}_embedding.positions"] = positions.repeat(1, COPIES)
    for side in ("encoder", "decoder"):
        for index in range(LAYERS):
            copied = min(index, layers - 1)
            layer = grown_layer(f"{side}.{copied}", old, heads, head)
            layer = {name.replace(f"{side}.{copied}.", f"{side}.{index}.", 1): tensor for name, tensor in layer.items()}
            found |= layer if index < layers else faint(layer, index)
        for name in ("weight", "bias"):
            part = 0.5 if side == "decoder" else 1.0
            found[f"{side}_norm.{name}"] = part * old[f"{side}_norm.{name}"].repeat(COPIES)
    return found


def write(options: argparse.Namespace) -> None:
    """Both directories."""
    small = native.load(options.directory).transformer
    sizes = small.config
    width = COPIES * sizes.width
    config = dataclasses.replace(
        sizes, source_vocab_size=VOCABULARY, target_vocab_size=VOCABULARY, width=width, heads=HEADS, head_size=HEAD,
        ffn_width=INNER_COPIES * sizes.ffn_width, encoder_layers=LAYERS, decoder_layers=LAYERS, positions="learned",
        embedding_scale=math.sqrt(width),
    )
    directory = options.out / "native"
    directory.mkdir(parents=True, exist_ok=True)
    positions = small.source_embedding.positions
    assert positions is not None
    old = load_file(options.directory / "model.safetensors")
    tensors = grown(old, positions, sizes.encoder_layers, sizes.heads, sizes.head_size)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    (directory / "tokenizer.json").write_bytes((options.directory / "tokenizer.json").read_bytes())
    (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    names = token_names(options.directory)
    names += [f"<filling {number}>" for number in range(len(names), VOCABULARY)]
    to_ctranslate2(native.load(directory).transformer, names, "<unk>", options.out / "ctranslate2")


def differing(options: argparse.Namespace, texts: list[str]) -> int:
    """Sentences that the grown model translates otherwise than the small one, by CTranslate2."""
    tokenizer = Tokenizer.from_file(str(options.directory / "tokenizer.json"))
    pieces = [tokenizer.encode(text, add_special_tokens=False).tokens for text in texts]
    with tempfile.TemporaryDirectory() as small:
        own = token_names(options.directory)
        to_ctranslate2(native.load(options.directory).transformer, own, "<unk>", Path(small))
        answers = [
            ctranslate2.Translator(str(directory), compute_type="float32", intra_threads=2).translate_batch(
                pieces, beam_size=1, max_decoding_length=100, max_batch_size=32
            ) for directory in (small, options.out / "ctranslate2")
        ]
    return sum(a.hypotheses != b.hypotheses for a, b in zip(*answers, strict=True))


def main() -> int:
    """Write both directories and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sentences", type=int, default=200, help="to compare (%(default)s)")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    write(options)
    texts = sentences(options.data, "en")[: options.sentences]
    (options.out / "sentences.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    found = differing(options, texts)
    print(f"{found} of {options.sentences} sentences are translated otherwise than by the small model")
    return int(found > options.sentences // 100)  # rounding may turn a tie


if __name__ == "__main__":
    sys.exit(main())
