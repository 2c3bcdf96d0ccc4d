"""Write a random Marian model twice: as a Hugging Face directory, and converted by CTranslate2's own loader.

Runs in the peers' environment (``make bench-peers``). The shape is that of the OPUS-MT models: 6 + 6 layers, width 512,
feed-forward 2048, 8 heads, 32 000 tokens, 61 million parameters. Nothing is downloaded; speed does not depend on what
the weights say.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from ctranslate2.converters import TransformersConverter
from torch import Tensor, nn

from workload import EOS_ID, PAD_ID, SEED, UNK_ID, VOCABULARY

HUGGING_FACE, CTRANSLATE2 = "hugging-face", "ctranslate2-float32"


class IdTokenizer:
    """What the converter asks of a tokenizer, for a vocabulary whose tokens are just their ids."""

    bos_token: str | None = None
    eos_token, unk_token, pad_token = "</s>", "<unk>", "<pad>"

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return {self.convert_ids_to_tokens(token_id): token_id for token_id in range(VOCABULARY)}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        """The token of an id; the ctranslate2 worker writes its sources the same way."""
        return {EOS_ID: self.eos_token, UNK_ID: self.unk_token, PAD_ID: self.pad_token}.get(token_id, str(token_id))


class Converter(TransformersConverter):  # type: ignore[misc]
    """CTranslate2's converter, spared the SentencePiece files that a random model does not have."""

    def load_tokenizer(self, *_ignored: Any, **_settings: Any) -> IdTokenizer:
        """Instead of a tokenizer read from the directory."""
        return IdTokenizer()


def random_model() -> Any:
    """A seeded ``MarianMTModel`` whose greedy output wanders through the vocabulary instead of repeating a token."""
    torch.manual_seed(SEED)
    model = transformers.MarianMTModel(transformers.MarianConfig(
        vocab_size=VOCABULARY, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
        activation_function="swish", scale_embedding=True, pad_token_id=PAD_ID, decoder_start_token_id=PAD_ID,
        eos_token_id=EOS_ID, forced_eos_token_id=None, dropout=0.0,
    )).eval()
    for name, tensor in model.named_parameters():
        _fill(name, tensor)
    nn.init.normal_(model.final_logits_bias, std=0.1)
    settings = model.generation_config
    settings.bad_words_ids, settings.num_beams, settings.max_length = [[PAD_ID]], 1, 512
    settings.forced_eos_token_id = None
    return model


@torch.no_grad()
def _fill(name: str, tensor: Tensor) -> None:
    """Gains found by trial: with equal ones every source ends in the same token for ever, and agreement means nothing.

    What works is attention that is sharp but adds little, beside a strong feed-forward layer without a constant part.
    """
    if "embed_positions" in name:
        return
    if tensor.dim() == 1:
        nn.init.normal_(tensor, std=0.02)
        if "norm.weight" in name:
            tensor += 1.0
        return
    if "shared" in name or "embed_tokens" in name:
        gain = 1.0
    elif "fc1" in name or "fc2" in name:
        gain = 2.0
    else:
        gain = 2.0 if "q_proj" in name or "k_proj" in name else 0.5
    nn.init.normal_(tensor, std=gain / math.sqrt(tensor.shape[1]))
    if "fc2" in name:
        tensor -= tensor.mean(1, keepdim=True)  # swish is positive on average, which would drown everything else
    if "shared" in name or "embed_tokens" in name:
        tensor[PAD_ID] = 0.0  # CTranslate2 starts Marian models from a zero embedding


def write(directory: Path) -> int:
    """Write both directories below the one given; tells the number of parameters."""
    transformers.logging.disable_progress_bar()
    model = random_model()
    model.save_pretrained(directory / HUGGING_FACE)
    Converter(str(directory / HUGGING_FACE)).convert(str(directory / CTRANSLATE2), quantization="float32", force=True)
    return sum(tensor.numel() for tensor in model.parameters())


def main() -> int:
    """Write both directories below the one given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write, for example var/bench")
    directory: Path = parser.parse_args().directory
    size = write(directory)
    print(f"{size / 1e6:.1f} million parameters in {directory / HUGGING_FACE} and {directory / CTRANSLATE2}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
