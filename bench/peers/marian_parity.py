"""Compare the ``marian`` family with transformers on random models: logits, and greedy ``generate`` token by token.

transformers is no dependency of this project; run this where it is installed, beside torch and safetensors:

    PYTHONPATH=export:proto python bench/peers/marian_parity.py [--write DIR]

``--write`` saves one small model and what transformers computes with it; tests/data/marian was made so.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from seqserve_export import reference
from seqserve_export.families import choose_family

try:
    import transformers
except ImportError:
    sys.exit("marian_parity: transformers is not installed here; pip install transformers torch safetensors")

SENTENCES, LIMIT, TOLERANCE = 64, 40, 1e-4
VARIANTS: dict[str, dict[str, Any]] = {
    "shared, swish": {"activation_function": "swish"},
    "shared, gelu, no scale": {"activation_function": "gelu", "scale_embedding": False},
    "separate, relu": {"activation_function": "relu", "share_encoder_decoder_embeddings": False,
                       "decoder_vocab_size": 80},
    "untied, gelu_new": {"activation_function": "gelu_new", "share_encoder_decoder_embeddings": False,
                         "tie_word_embeddings": False},
    "shared but untied, swish": {"activation_function": "swish", "tie_word_embeddings": False},
    "head size 5, 3 + 2 layers": {"d_model": 20, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                                  "encoder_layers": 3},
}


def random_model(changes: dict[str, Any]) -> Any:
    """A small MarianMTModel whose weights are large enough for varied outputs."""
    values = {
        "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
        "pad_token_id": 79, "decoder_start_token_id": 79, "eos_token_id": 0, "forced_eos_token_id": 0,
        "scale_embedding": True, **changes,
    }
    model = transformers.MarianMTModel(transformers.MarianConfig(**values)).eval()
    for name, tensor in model.state_dict().items():
        if "embed_positions" not in name:
            # Sharp attention and a weak feed-forward part: otherwise a random model repeats one token for ever.
            torch.nn.init.normal_(tensor, std=0.6 if "q_proj" in name else 0.06 if ".fc" in name else 0.25)
            if "norm.weight" in name:
                tensor += 1.0
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] *= 1.5  # so that some sentences end by themselves
    model.generation_config.bad_words_ids = [[model.config.pad_token_id]]
    model.generation_config.max_length = LIMIT
    return model


def compare(changes: dict[str, Any]) -> tuple[float, int, int]:
    """Largest logits error, sentences decoded differently, tokens compared."""
    theirs = random_model(changes)
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        checkpoint = choose_family(Path(directory)).read(Path(directory))
    ours, config = checkpoint.model, checkpoint.model.config
    sources = [
        [*torch.randint(1, 78, (length % 19,)).tolist(), *checkpoint.source_suffix] for length in range(SENTENCES)
    ]
    ids, lengths = reference.pad(sources, config.pad_id)
    mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
    target = torch.randint(1, 78, (SENTENCES, 20))
    allowed = torch.ones(config.target_vocab_size, dtype=torch.bool)
    allowed[config.pad_id] = False  # the folded suppression, which transformers applies outside the model
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
        error = float((ours(ids, lengths, target) - expected)[..., allowed].abs().max())
        generated = theirs.generate(input_ids=ids, attention_mask=mask, num_beams=1, do_sample=False)
    decoded = reference.greedy(
        ours, sources, checkpoint.default_max_new_tokens, forced_end=checkpoint.forced_end
    )
    different, compared = 0, 0
    for row, result in zip(generated.tolist(), decoded, strict=True):
        tokens = row[1:]
        mine = [*result.token_ids, config.eos_id]  # its own, or the forced one
        compared += len(mine)
        different += mine + [config.pad_id] * (len(tokens) - len(mine)) != tokens
    return error, different, compared


def write(directory: Path) -> None:
    """A Marian directory as transformers saves it, and expected.json beside it."""
    model = random_model({
        "vocab_size": 40, "d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "pad_token_id": 39, "decoder_start_token_id": 39,
        "activation_function": "swish",
    })
    model.save_pretrained(directory)
    sources = [[*torch.randint(1, 38, (length,)).tolist(), 0] for length in range(16)]
    target = [39, *torch.randint(1, 38, (9,)).tolist()]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sources[7]]), decoder_input_ids=torch.tensor([target])).logits[0]
        greedy = [
            model.generate(input_ids=torch.tensor([source]), num_beams=1, do_sample=False)[0].tolist()
            for source in sources
        ]
    expected = {
        "transformers": transformers.__version__, "sources": sources, "greedy": greedy,
        "logits": {"source": 7, "decoder_input_ids": target, "values": logits.tolist()},
    }
    (directory / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def main() -> int:
    """Print one line per variant; 1 when any differs."""
    parser = argparse.ArgumentParser(description="Compare the marian family with transformers.")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save a model and its results instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    if args.write is not None:
        write(args.write)
        return 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; {SENTENCES} sentences each")
    failed = False
    for name, changes in VARIANTS.items():
        error, different, compared = compare(changes)
        failed |= error > TOLERANCE or different > 0
        print(f"{name:28} logits error {error:.1e}   sentences that differ {different}   tokens compared {compared}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
