"""The demonstration model as a directory of transformers and as one of CTranslate2, and their logits beside its own.

    PYTHONPATH=bench:export:proto .venv-peers/bin/python -m peers.demo_models demo/en-de DATA OUT [--unknown TOKEN]

writes ``OUT/transformers`` and ``OUT/ctranslate2``. Pegasus is the class of transformers that has this model's layers:
norms before, one at the end, none behind the embedding, tied outputs without a bias. Its sinusoids come all sines
first, where this model has sine and cosine in turn, so the columns of all states are put in its order: the same sums,
their terms in another order. CTranslate2 stores the table as it is. With ``--unknown`` its directory takes TOKEN, one
that answers are full of, for the unknown token, as this model never generates its own.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import torch
import transformers
from ctranslate2.specs.transformer_spec import TransformerSpec
from torch import Tensor, nn

from multi30k import sentences
from seqserve_export.families import native
from seqserve_export.model import Transformer

NEEDED = {
    "norm": "layer", "norm_position": "pre", "norm_epsilon": 1e-5, "final_norm": True, "embedding_norm": False,
    "positions": "sinusoidal", "sinusoid_order": "interleaved", "position_offset": 0, "attention_bias": True,
    "attention_scale": None, "activation": "relu", "gated_ffn": False, "ffn_bias": True, "shared_embeddings": True,
    "tied_output": True, "output_bias": False, "output_scale": 1.0,
}
TOLERANCE = 1e-4


def token_names(directory: Path) -> list[str]:
    """The tokens of ``tokenizer.json`` in the order of their ids."""
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = content["model"]["vocab"]
    ids |= {added["content"]: added["id"] for added in content["added_tokens"]}
    return sorted(ids, key=lambda name: ids[name])


def to_transformers(model: Transformer, directory: Path) -> None:
    """Write a directory of ``PegasusForConditionalGeneration``."""
    sizes = model.config
    config = transformers.PegasusConfig(
        vocab_size=sizes.target_vocab_size, d_model=sizes.width, encoder_layers=sizes.encoder_layers,
        decoder_layers=sizes.decoder_layers, encoder_attention_heads=sizes.heads, decoder_attention_heads=sizes.heads,
        encoder_ffn_dim=sizes.ffn_width, decoder_ffn_dim=sizes.ffn_width, activation_function="relu",
        max_position_embeddings=sizes.max_target_length, scale_embedding=True, pad_token_id=sizes.pad_id,
        eos_token_id=sizes.eos_id, decoder_start_token_id=sizes.decoder_start_id, forced_eos_token_id=None,
    )
    peer = transformers.PegasusForConditionalGeneration(config).eval()
    order = torch.cat([torch.arange(0, sizes.width, 2), torch.arange(1, sizes.width, 2)])
    tensors = {"model.shared.weight": model.target_embedding.tokens.weight[:, order]}
    for side, layers, norm in (
        ("encoder", model.encoder, model.encoder_norm), ("decoder", model.decoder, model.decoder_norm)
    ):
        scope = f"model.{side}"
        tensors[f"{scope}.embed_tokens.weight"] = tensors["model.shared.weight"]
        tensors |= _normed(f"{scope}.layer_norm", norm, order)
        for index, layer in enumerate(layers):
            tensors |= _layer(f"{scope}.layers.{index}", layer, order)
    tensors["lm_head.weight"] = tensors["model.shared.weight"]
    missing, unexpected = peer.load_state_dict(tensors, strict=False)
    computed = ("embed_positions", "final_logits_bias")  # the last is zeros
    if left := [*unexpected, *(name for name in missing if not any(part in name for part in computed))]:
        raise SystemExit(f"demo_models: not the tensors of Pegasus: {', '.join(left)}")
    peer.save_pretrained(directory)


def _layer(scope: str, layer: nn.Module, order: Tensor) -> dict[str, Tensor]:
    """The tensors of one layer by Pegasus' names, what lies along the width in its order."""
    found = {}
    blocks = {"self_attn": ("attention", "attention_norm"), "encoder_attn": ("cross", "cross_norm")}
    for theirs, (ours, norm) in blocks.items():
        if (attention := getattr(layer, ours, None)) is None:
            continue
        for name in ("query", "key", "value"):
            linear = getattr(attention, name)
            found[f"{scope}.{theirs}.{name[0]}_proj.weight"] = linear.weight[:, order]
            found[f"{scope}.{theirs}.{name[0]}_proj.bias"] = linear.bias
        found[f"{scope}.{theirs}.out_proj.weight"] = attention.output.weight[order]
        found[f"{scope}.{theirs}.out_proj.bias"] = attention.output.bias[order]
        found |= _normed(f"{scope}.{theirs}_layer_norm", getattr(layer, norm).norm, order)
    ffn: Any = layer.ffn
    found |= {f"{scope}.fc1.weight": ffn.inner.weight[:, order], f"{scope}.fc1.bias": ffn.inner.bias,
              f"{scope}.fc2.weight": ffn.outer.weight[order], f"{scope}.fc2.bias": ffn.outer.bias[order]}
    return found | _normed(f"{scope}.final_layer_norm", layer.ffn_norm.norm, order)


def _normed(scope: str, norm: Any, order: Tensor) -> dict[str, Tensor]:
    return {f"{scope}.weight": norm.weight[order], f"{scope}.bias": norm.bias[order]}


def to_ctranslate2(model: Transformer, names: list[str], unknown: str, directory: Path) -> None:
    """Write a directory by ``TransformerSpec``."""
    sizes = model.config
    spec = TransformerSpec.from_config((sizes.encoder_layers, sizes.decoder_layers), sizes.heads)
    table = model.target_embedding.tokens.weight.numpy()
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = table
    for side, embedding, norm in (
        (spec.encoder, model.source_embedding, model.encoder_norm),
        (spec.decoder, model.target_embedding, model.decoder_norm),
    ):
        side.scale_embeddings = True
        side.position_encodings.encodings = embedding.positions.numpy()  # type: ignore[union-attr]
        _fill_norm(side.layer_norm, norm)
    for theirs, ours in zip([*spec.encoder.layer, *spec.decoder.layer], [*model.encoder, *model.decoder], strict=True):
        own = ours.attention
        _fill_linear(theirs.self_attention.linear[0], own.query, own.key, own.value)
        _fill_linear(theirs.self_attention.linear[1], own.output)
        _fill_norm(theirs.self_attention.layer_norm, ours.attention_norm.norm)
        if hasattr(ours, "cross"):
            for linear, given in zip(
                theirs.attention.linear, ([ours.cross.query], [ours.cross.key, ours.cross.value], [ours.cross.output]),
                strict=True,
            ):
                _fill_linear(linear, *given)
            _fill_norm(theirs.attention.layer_norm, ours.cross_norm.norm)
        _fill_linear(theirs.ffn.linear_0, ours.ffn.inner)
        _fill_linear(theirs.ffn.linear_1, ours.ffn.outer)
        _fill_norm(theirs.ffn.layer_norm, ours.ffn_norm.norm)
    spec.config.add_source_eos, spec.config.decoder_start_token = True, names[sizes.decoder_start_id]
    spec.config.eos_token, spec.config.unk_token = names[sizes.eos_id], unknown
    spec.config.bos_token = names[sizes.decoder_start_id]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.validate()
    spec.optimize()
    directory.mkdir(parents=True, exist_ok=True)
    spec.save(str(directory))


def _fill_linear(spec: Any, *given: nn.Linear) -> None:
    spec.weight = torch.cat([linear.weight for linear in given]).numpy()
    spec.bias = torch.cat([linear.bias for linear in given]).numpy()


def _fill_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = norm.weight.numpy(), norm.bias.numpy()


def errors(model: Transformer, out: Path, names: list[str], texts: list[list[int]]) -> tuple[float, float]:
    """The largest difference of logits, with transformers and with CTranslate2, along greedy answers of the latter."""
    peer = transformers.PegasusForConditionalGeneration.from_pretrained(out / "transformers").eval()
    translator = ctranslate2.Translator(str(out / "ctranslate2"), compute_type="float32", intra_threads=2)
    numbers, largest = {name: number for number, name in enumerate(names)}, [0.0, 0.0]
    for ids in texts:
        answer = translator.translate_batch(
            [[names[number] for number in ids]], beam_size=1, return_logits_vocab=True, min_decoding_length=0,
            max_decoding_length=60,
        )[0]
        fed = [model.config.decoder_start_id, *(numbers[name] for name in answer.hypotheses[0])]
        source, target = torch.tensor([[*ids, model.config.eos_id]]), torch.tensor([fed])
        ours = model(source, torch.tensor([source.shape[1]]), target)[0]
        theirs = peer(input_ids=source, decoder_input_ids=target).logits[0]
        given = [torch.from_numpy(_array(step)).reshape(-1) for step in answer.logits[0]]
        both = (theirs, torch.stack(given)), (ours, ours[: len(given)])
        largest = [max(most, (one - other).abs().max().item()) for most, one, other in zip(largest, *both, strict=True)]
    return largest[0], largest[1]


def _array(step: Any) -> Any:
    import numpy as np

    return np.array(step, dtype=np.float32)


def main() -> int:
    """Write both and compare; 1 where logits differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--unknown", metavar="TOKEN", default="<unk>")
    parser.add_argument("--sentences", type=int, default=300, help="to compare (%(default)s)")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    model, names = native.load(options.directory).transformer, token_names(options.directory)
    given = model.config.to_dict()
    if wrong := [name for name, value in NEEDED.items() if given[name] != value]:
        raise SystemExit(f"demo_models: Pegasus has another {', '.join(wrong)}")
    if not math.isclose(model.config.embedding_scale, math.sqrt(model.config.width)):
        raise SystemExit("demo_models: embeddings are not scaled by the root of the width")
    to_transformers(model, options.out / "transformers")
    to_ctranslate2(model, names, options.unknown, options.out / "ctranslate2")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(options.directory / "tokenizer.json"))
    chosen = sentences(options.data, "en")[: options.sentences]
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in chosen]
    found = errors(model, options.out, names, texts)
    print(f"largest error of logits, {len(texts)} sentences: transformers {found[0]:.1e}, CTranslate2 {found[1]:.1e}")
    return int(max(found) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
