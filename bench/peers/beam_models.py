"""Random models for ``beam_parity``: a Marian model, the same in CTranslate2, and log-probabilities for a search."""

import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from transformers.modeling_outputs import BaseModelOutput

from seqserve_server.decoding.choose import search_of
from seqserve_server.decoding.search import Hypothesis, SearchSettings

VOCABULARY, END = 24, 0
PAD = VOCABULARY - 1
IMPOSSIBLE = -1e30


class Words:
    """What CTranslate2's converter asks a tokenizer for."""

    bos_token, eos_token, unk_token, pad_token = "<s>", "</s>", "<unk>", "<pad>"
    unk_token_id = 2
    special_tokens_map: ClassVar[dict[str, Any]] = {}
    num_madeup_words = 0
    words: ClassVar[list[str]] = ["</s>", "<s>", "<unk>", *(f"w{number}" for number in range(3, PAD)), "<pad>"]

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return {word: index for index, word in enumerate(self.words)}

    def convert_ids_to_tokens(self, index: int) -> str:
        """The token of an id."""
        return self.words[index]


class Converter(TransformersConverter):  # type: ignore[misc]
    """CTranslate2's own, without a tokenizer on disk."""

    def load_tokenizer(self, *_: Any, **__: Any) -> Words:
        """Words."""
        return Words()


class RandomModel:
    """One random model; ``hub`` is the transformers model."""

    def __init__(self, seed: int, end_bias: float) -> None:
        torch.manual_seed(seed)
        width: dict[str, Any] = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        self.hub = transformers.MarianMTModel(transformers.MarianConfig(
            vocab_size=VOCABULARY, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, max_position_embeddings=64, pad_token_id=PAD, decoder_start_token_id=PAD,
            eos_token_id=END, bos_token_id=1, forced_eos_token_id=None, scale_embedding=True, **width,
        )).eval()
        with torch.no_grad():
            for name, tensor in self.hub.state_dict().items():
                if "embed_positions" not in name:
                    torch.nn.init.normal_(tensor, std=0.6 if "q_proj" in name else 0.25)
                    if "norm.weight" in name:
                        tensor += 1.0
            self.hub.model.shared.weight[PAD] = 0  # as in all Marian models; CTranslate2 counts on it
            self.hub.final_logits_bias[0, END] += end_bias
            self.hub.final_logits_bias[0, PAD] = -50.0  # CTranslate2 has no such token
        self._source: list[int] = []
        self._encoded = torch.empty(0)

    def converted(self) -> Any:
        """The model in CTranslate2, in float32."""
        with tempfile.TemporaryDirectory() as saved, tempfile.TemporaryDirectory() as made:
            self.hub.save_pretrained(saved)
            Converter(saved).convert(made, force=True)
            return ctranslate2.Translator(made, compute_type="float32", inter_threads=1, intra_threads=1)

    def log_probs(self, source: list[int], prefixes: Sequence[list[int]]) -> Any:
        """Of the next token after each prefix of equal length: float32, len(prefixes) by ``VOCABULARY``."""
        with torch.no_grad():
            if self._source != source:
                self._source = source
                self._encoded = self.hub.model.encoder(torch.tensor([source])).last_hidden_state
            encoded = BaseModelOutput(last_hidden_state=self._encoded.expand(len(prefixes), -1, -1))
            start = torch.tensor([[PAD, *prefix] for prefix in prefixes])
            logits = self.hub(encoder_outputs=encoded, decoder_input_ids=start).logits[:, -1]
        return torch.log_softmax(logits, -1).numpy()


def decode(
    model: RandomModel, source: list[int], settings: SearchSettings, *, renormalise: bool = False,
    noise: np.random.Generator | None = None,
) -> list[Hypothesis]:
    """What our search finds with the model.

    Args:
        renormalise: Take the end token out of the distribution where it may not come, as CTranslate2 does.
        noise: Adds up to 1e-5 to every log-probability, to tell whether an answer hangs on less.
    """
    search, live = search_of(settings, [0]), [list[int]()]
    while True:
        rows = model.log_probs(source, live).astype(np.float64)
        if renormalise and len(live[0]) < settings.min_new_tokens:
            rows[:, END] = IMPOSSIBLE
            rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        if noise is not None:
            rows = np.minimum(rows + noise.uniform(-1e-5, 1e-5, rows.shape), 0)
        order = np.argsort(-rows, axis=1, kind="stable")[:, : search.candidates]
        step = search.advance(order.tolist(), np.take_along_axis(rows, order, 1).tolist())
        if step.found is not None:
            return step.found
        live = [[*live[each.parent], each.token] for each in step.live]
