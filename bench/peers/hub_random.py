"""Small random models and tokenizers of the classes that ``hub_parity.py`` compares, built by transformers itself."""

import io
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

LIMIT = 24  # max_length of the random models
LINES = [
    "A man rides a horse.", "Two dogs play in the snow.", "A woman with a red hat, and a small child.",
    "Ein Mann reitet ein Pferd.", "Zwei Hunde spielen im Schnee.", "Größe, Äpfel und süße Straßen.",
]
SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
}
# What differs from transformers' defaults for the class; "tokenizer" and "generation" are taken out first.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bart": {
        "as bart-large-cnn": {"generation": {"forced_bos_token_id": 0, "min_length": 8}},
        "scaled, relu, 3 + 1 layers": {"scale_embedding": True, "activation_function": "relu", "encoder_layers": 3,
                                       "decoder_layers": 1},
        "untied": {"tie_word_embeddings": False, "generation": {"forced_eos_token_id": None}},
        "head size 5, suppressed": {"d_model": 20, "generation": {"suppress_tokens": [7, 8], "bad_words_ids": [[9]]}},
    },
    "pegasus": {
        "as pegasus-xsum": {"scale_embedding": True, "activation_function": "relu"},
        "not scaled, gelu": {},
        "1 + 3 layers, untied": {"encoder_layers": 1, "decoder_layers": 3, "tie_word_embeddings": False},
        "forced first, shortest 5": {"generation": {"forced_bos_token_id": 6, "min_new_tokens": 5}},
    },
    "mbart": {
        "as mbart-large-50": {"tokenizer": "mbart50", "scale_embedding": True, "decoder_start_token_id": 2},
        "50, one target": {"tokenizer": "mbart50", "decoder_start_token_id": 2, "generation": {"forced_bos": "en_XX"}},
        "as mbart-large-cc25": {"tokenizer": "mbart", "scale_embedding": True},
        "as mbart-large-en-ro": {"tokenizer": "mbart", "scale_embedding": True, "encoder_layers": 1,
                                 "generation": {"decoder_start": "ro_RO"}},
        "untied": {"tokenizer": "mbart50", "tie_word_embeddings": False, "decoder_start_token_id": 2,
                   "generation": {"min_length": 6}},
    },
    "m2m100": {
        "as m2m100_418M": {"tokenizer": "m2m100"},
        "as wmt21-dense": {"tokenizer": "wmt21", "generation": {"forced_bos": "de"}},
        "nllb": {"tokenizer": "nllb", "encoder_layers": 3},
        "nllb, as before": {"tokenizer": "nllb-legacy", "generation": {"forced_eos_token_id": 2}},
        "untied, odd width, suppressed": {"tokenizer": "nllb", "d_model": 27, "encoder_attention_heads": 3,
                                          "decoder_attention_heads": 3, "tie_word_embeddings": False,
                                          "generation": {"suppress_tokens": [9]}},
    },
}
CLASSES = {
    "bart": ("BartForConditionalGeneration", "BartConfig"),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig"),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig"),
    "m2m100": ("M2M100ForConditionalGeneration", "M2M100Config"),
}


def pieces(directory: Path, size: int) -> list[tuple[str, float]]:
    """Trains a SentencePiece model into the directory; its pieces without the three special ones."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity",  # the tables of the others take 230 KB
    )
    path = directory / "sentencepiece.bpe.model"
    path.write_bytes(model.getvalue())
    processor = SentencePieceProcessor(model_file=str(path))
    return [(processor.IdToPiece(each), processor.GetScore(each)) for each in range(3, processor.GetPieceSize())]


def make_tokenizer(kind: str, directory: Path, *, size: int = 80) -> Any:
    """A tokenizer of a class, with a vocabulary of its own; saved into the directory."""
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    directory.mkdir(parents=True, exist_ok=True)
    if kind == "bart":
        made = _byte_pairs(size + 250)
    elif kind == "pegasus":
        vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<mask_1>", 0.0), ("<mask_2>", 0.0), ("<unk_2>", 0.0),
                      ("<unk>", 0.0), *_pieces_of(size)]
        made = transformers.PegasusTokenizer(vocab=vocabulary, offset=3)
    elif kind in ("mbart", "mbart50"):
        module = getattr(transformers.models, kind)
        module = getattr(module, f"tokenization_{kind}")
        codes = [(code, 0.0) for code in module.FAIRSEQ_LANGUAGE_CODES]
        builder = transformers.MBartTokenizer if kind == "mbart" else transformers.MBart50Tokenizer
        made = builder(vocab=[*special, *_pieces_of(size), *codes, ("<mask>", 0.0)], src_lang="en_XX")
    elif kind.startswith("nllb"):
        made = _nllb(size, legacy=kind == "nllb-legacy")
    else:
        entries = [token for token, _ in [*special, *pieces(directory, size)]]
        (directory / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(entries)}))
        made = transformers.M2M100Tokenizer(
            str(directory / "vocab.json"), str(directory / "sentencepiece.bpe.model"), src_lang="en",
            language_codes=kind,
        )
    made.save_pretrained(directory)
    return made


def _pieces_of(size: int) -> list[tuple[str, float]]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        return pieces(Path(directory), size)


def _byte_pairs(size: int) -> Any:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(LINES, vocab_size=size, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    model = json.loads(trained.to_str())["model"]
    return transformers.BartTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def _nllb(size: int, *, legacy: bool) -> Any:
    from tokenizers import SentencePieceBPETokenizer

    trained = SentencePieceBPETokenizer()
    trained.train_from_iterator(LINES, vocab_size=size, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    model = json.loads(trained.to_str())["model"]
    return transformers.NllbTokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], src_lang="eng_Latn",
        extra_special_tokens=["eng_Latn", "deu_Latn", "fra_Latn", "zho_Hans"], legacy_behaviour=legacy,
    )


def make_model(family: str, changes: dict[str, Any], directory: Path, *, size: int = 80) -> None:
    """A random model with its tokenizer, saved as transformers saves them."""
    changes = dict(changes)
    generation = dict(changes.pop("generation", {}))
    tokenizer = make_tokenizer(changes.pop("tokenizer", family), directory, size=size)
    model_class, config_class = (getattr(transformers, name) for name in CLASSES[family])
    entries = max(len(tokenizer), *(number + 1 for number in getattr(tokenizer, "lang_code_to_id", {"": 0}).values()))
    config = config_class(**{**SIZES, "vocab_size": entries + 3, **changes})
    model = model_class(config).eval()
    randomise(model)
    settings = model.generation_config
    settings.max_length = LIMIT
    # transformers forbids no padding token; M2M100 gives whatever follows one another position (docs/checkpoints.md).
    settings.bad_words_ids = [[config.pad_token_id], *generation.pop("bad_words_ids", [])]
    for name in ("decoder_start", "forced_bos"):
        if name in generation:
            generation[f"{name}_token_id"] = language_id(tokenizer, generation.pop(name))
    for name, value in generation.items():
        setattr(settings, name, value)
    model.save_pretrained(directory)


def randomise(model: Any) -> None:
    """Weights large enough for varied outputs."""
    width = model.config.d_model
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "embed_positions" in name and not getattr(model.model.encoder.embed_positions, "offset", 0):
                continue  # Pegasus's sinusoids, which are parameters
            # Sharp and strong attention, a weak feed-forward part: otherwise a random model repeats one token for ever.
            factor = 3.0 if "q_proj" in name else 0.4 if ".fc" in name else 2.0 if "attn" in name else 1.4
            torch.nn.init.normal_(tensor, std=factor * width**-0.5)
            if "norm" in name and name.endswith("weight"):
                tensor += 1.0
            if model.config.scale_embedding and ("shared" in name or "embed_tokens" in name):
                tensor /= width**0.5 / 2
        for table in {id(each): each for each in (model.lm_head.weight, model.model.shared.weight)}.values():
            table[model.config.eos_token_id] *= 2.5  # so that some sentences end by themselves


def language_id(tokenizer: Any, code: str) -> int:
    """The id of a language, by the tokenizer's own rule."""
    if hasattr(tokenizer, "get_lang_id"):
        return int(tokenizer.get_lang_id(code))
    return int(tokenizer.convert_tokens_to_ids(code))
