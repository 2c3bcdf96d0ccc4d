"""Train one small model of each Hugging Face class on Multi30k, a few minutes each, and save it as its library does.

    PYTHONPATH=bench .venv-peers/bin/python bench/peers/hub_models.py --data DIR --out var/hub [CLASS ...]

The outputs look like captions and end by themselves, which random weights do not. Tokenizers are trained too, in the
class's own format. What is there already is kept.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor

from multi30k import sentences

# transformers reads SentencePiece models by sentencepiece's own messages, generated for a newer protobuf than the one
# that is pinned; they are the same on the wire.
os.environ["TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK"] = "true"
try:
    import transformers
    from transformers import AutoTokenizer
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES
except ImportError:
    sys.exit("hub_models: transformers is not installed here; run it with .venv-peers/bin/python")

ENTRIES, WIDTH, HEADS, FFN, LAYERS = 2000, 128, 4, 256, 2
BATCH, PEAK, WARMUP = 64, 2e-3, 200
CODES = {"mbart": ("en_XX", "de_DE", "fr_XX"), "mbart50": ("en_XX", "de_DE", "fr_XX"),
         "nllb": ("eng_Latn", "deu_Latn", "fra_Latn"), "m2m100": ("en", "de", "fr")}
SIDES = {"source": "en", "target": "de"}  # of Marian, whose sides have SentencePiece models of their own
PIECES = {"pegasus": "spiece.model", "t5": "spiece.model", "mt5": "spiece.model", "m2m100": "sentencepiece.bpe.model",
          "mbart": "sentencepiece.bpe.model", "mbart50": "sentencepiece.bpe.model", "nllb": "sentencepiece.bpe.model"}
TOKENIZERS = {"mbart": "MBartTokenizer", "mbart50": "MBart50Tokenizer", "nllb": "NllbTokenizer", "t5": "T5Tokenizer",
              "mt5": "T5Tokenizer", "pegasus": "PegasusTokenizer"}
BART_LIKE: dict[str, Any] = {
    "d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": FFN, "decoder_ffn_dim": FFN, "max_position_embeddings": 256,
    "scale_embedding": True, "dropout": 0.1, "activation_dropout": 0.0, "attention_dropout": 0.0,
}


@dataclass(frozen=True)
class Pair:
    """Complete label ids, and source ids, of one sentence pair."""

    source: list[int]
    target: list[int]


def train_pieces(texts: list[str], path: Path, kind: str) -> None:
    """A SentencePiece model with the id habits that the class expects of one."""
    own = kind in ("t5", "mt5", "pegasus")
    ids: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} if own else {}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), vocab_size=ENTRIES,
        model_type="bpe" if kind == "nllb" else "unigram", character_coverage=0.9995, minloglevel=2, num_threads=2,
        byte_fallback=kind == "mt5", **ids,
    )
    path.with_suffix(".vocab").unlink()
    path.with_suffix(".model").rename(path)


def make_marian_tokenizer(data: Path, directory: Path) -> Any:
    """As OPUS-MT directories have it: two models, one vocabulary in an order of its own, the padding token last."""
    pieces = set()
    for side, language in SIDES.items():
        path = directory / f"{side}.spm"
        train_pieces(sentences(data, language, "train"), path, "marian")
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces |= {model.id_to_piece(number) for number in range(model.get_piece_size())}
    entries = ["</s>", "<unk>", *sorted(pieces - {"<s>", "</s>", "<unk>"}), "<pad>"]
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(entries)}))
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "deu"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.MarianTokenizer.from_pretrained(directory)


def make_tokenizer(kind: str, texts: list[str], directory: Path) -> Any:
    """The class's tokenizer, loaded from files as a checkpoint's would be."""
    if kind == "bart":
        from tokenizers import ByteLevelBPETokenizer

        inner = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        inner.train_from_iterator(texts, vocab_size=ENTRIES, special_tokens=special, show_progress=False)
        inner.save_model(str(directory))
        (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
        return AutoTokenizer.from_pretrained(directory)
    path = directory / PIECES[kind]
    train_pieces(texts, path, kind)
    if kind == "m2m100":
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        entries = ["<s>", "<pad>", "</s>", "<unk>", *(model.id_to_piece(i) for i in range(3, model.get_piece_size()))]
        (directory / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(entries)}))
        return transformers.M2M100Tokenizer(
            vocab_file=str(directory / "vocab.json"), spm_file=str(path), src_lang="en", tgt_lang="de"
        )
    languages = {"src_lang": CODES[kind][0], "tgt_lang": CODES[kind][1]} if kind in CODES else {}
    settings: dict[str, Any] = {"tokenizer_class": TOKENIZERS[kind], **languages}
    if kind == "nllb":
        settings["extra_special_tokens"] = FAIRSEQ_LANGUAGE_CODES
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return getattr(transformers, TOKENIZERS[kind]).from_pretrained(directory, **languages)


def make_model(kind: str, tokenizer: Any) -> Any:
    """A new model whose vocabulary fits the tokenizer."""
    size = 1 + max(tokenizer.get_vocab().values())
    if kind == "m2m100":  # languages and made-up words stand behind the vocabulary
        size = tokenizer.encoder_size + len(tokenizer.lang_code_to_id) + tokenizer.num_madeup_words
    if kind in ("t5", "mt5"):
        gated = kind == "mt5"
        config: Any = (transformers.MT5Config if gated else transformers.T5Config)(
            vocab_size=size, d_model=WIDTH, d_kv=24, d_ff=FFN, num_layers=LAYERS, num_decoder_layers=LAYERS,
            num_heads=HEADS, feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated,
            decoder_start_token_id=0, dropout_rate=0.1,
        )
        return (transformers.MT5ForConditionalGeneration if gated else transformers.T5ForConditionalGeneration)(config)
    common = {**BART_LIKE, "vocab_size": size}
    if kind == "bart":
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**common))
        model.generation_config.forced_bos_token_id = 0
        return model
    if kind in ("mbart", "mbart50"):
        start = tokenizer.convert_tokens_to_ids("de_DE") if kind == "mbart" else 2
        return transformers.MBartForConditionalGeneration(
            transformers.MBartConfig(**common, decoder_start_token_id=start)
        )
    if kind == "marian":
        return make_marian(common, size)
    if kind == "pegasus":
        return transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**common))
    return transformers.M2M100ForConditionalGeneration(
        transformers.M2M100Config(**common, decoder_start_token_id=2, decoder_layerdrop=0.0, encoder_layerdrop=0.0)
    )


def make_marian(common: dict[str, Any], size: int) -> Any:
    """With what OPUS-MT's conversions set; ``size`` is the vocabulary's, whose last token is padding and the start.

    Marian itself has no such token: it begins with zeros, which is what the conversions put into its row.
    """
    pad = size - 1
    model = transformers.MarianMTModel(transformers.MarianConfig(
        **common, activation_function="swish", static_position_embeddings=True, pad_token_id=pad, eos_token_id=0,
        bos_token_id=0, forced_eos_token_id=0, decoder_start_token_id=pad, share_encoder_decoder_embeddings=True,
        normalize_before=False, normalize_embedding=False, add_final_layer_norm=False,
    ))
    model.generation_config.update(
        num_beams=4, bad_words_ids=[[pad]], forced_eos_token_id=0, renormalize_logits=True
    )
    table: Any = model.model.shared.weight
    table.data[pad] = 0.0
    table.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([pad]), 0.0))  # as an output it has one
    return model


def encode_pairs(kind: str, tokenizer: Any, folder: Path, count: int) -> list[Pair]:
    """Training pairs; multilingual classes get three directions, so that the target language matters."""
    texts = {code: sentences(folder, code, "train")[:count] for code in ("en", "de", "fr")}
    directions = (("en", "de"), ("en", "fr"), ("de", "en")) if kind in CODES else (("en", "de"),)
    pairs = []
    for source, target in directions:
        if kind in CODES:
            places = ("en", "de", "fr")
            tokenizer.src_lang = CODES[kind][places.index(source)]
            tokenizer.tgt_lang = CODES[kind][places.index(target)]
        encoded = tokenizer(texts[source], text_target=texts[target])
        pairs += [Pair(*both) for both in zip(encoded["input_ids"], encoded["labels"], strict=True)]
    return pairs


def batches(pairs: list[Pair], pad: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches of similar lengths, padded; labels are -100 where padded."""
    order = sorted(range(len(pairs)), key=lambda place: len(pairs[place].source) + len(pairs[place].target))
    chunks = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    for number in torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed)).tolist():
        rows = [pairs[place] for place in chunks[number]]
        source = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.source) for row in rows], True, pad)
        target = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.target) for row in rows], True, -100)
        yield {"input_ids": source, "attention_mask": (source != pad).long(), "labels": target}


def decoder_inputs(kind: str, labels: Tensor, start: int, pad: int) -> Tensor:
    """Labels moved one place to the right, as the class's ``generate`` will feed them."""
    filled = labels.masked_fill(labels == -100, pad)
    if kind == "mbart":  # the label's last token, the language, is what decoding starts from
        last = (labels != -100).sum(dim=1, keepdim=True) - 1
        return torch.cat([filled.gather(1, last), filled[:, :-1]], dim=1)
    return torch.cat([torch.full_like(filled[:, :1], start), filled[:, :-1]], dim=1)


def train(kind: str, model: Any, pairs: list[Pair], seconds: float, say: Callable[[str], None]) -> None:
    """Adam on cross-entropy until the time is up."""
    pad, start = model.config.pad_token_id, model.config.decoder_start_token_id
    optimizer = torch.optim.Adam(model.parameters(), lr=PEAK, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (WARMUP / (step + 1)) ** 0.5)
    )
    begun, update, epoch, mean = time.monotonic(), 0, 0, 0.0
    model.train()
    while time.monotonic() - begun < seconds:
        for batch in batches(pairs, pad, epoch):
            inputs = decoder_inputs(kind, batch["labels"], start, pad)
            loss = model(**batch, decoder_input_ids=inputs).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            update, mean = update + 1, 0.98 * mean + 0.02 * loss.item()
            if update % 100 == 0:
                say(f"{kind}: update {update}, loss {mean:.2f}, {time.monotonic() - begun:.0f} s")
            if time.monotonic() - begun >= seconds:
                break
        epoch += 1
    model.eval()


def build(kind: str, data: Path, directory: Path, seconds: float) -> None:
    """Tokenizer, model, training, and the files."""
    torch.manual_seed(0)
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    languages = ("en", "de", "fr") if kind in CODES else ("en", "de")
    texts = [line for code in languages for line in sentences(data, code, "train")]
    tokenizer = make_marian_tokenizer(data, partial) if kind == "marian" else make_tokenizer(kind, texts, partial)
    model = make_model(kind, tokenizer)
    train(kind, model, encode_pairs(kind, tokenizer, data, 29000), seconds, lambda line: print(line, flush=True))
    model.generation_config.max_length = 60
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (source,) = tokenizer(["A man is riding a horse."], return_tensors="pt")["input_ids"]
    forced = {} if kind not in CODES else {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(CODES[kind][1])}
    if kind == "mbart":
        forced = {}
    answer = model.generate(source[None], num_beams=1, do_sample=False, **forced)[0]
    print(f"{kind}: {answer.tolist()} {tokenizer.decode(answer, skip_special_tokens=True)}", flush=True)
    partial.rename(directory)


def main() -> None:
    """Build what is asked for and missing."""
    kinds = ("bart", "mbart", "mbart50", "pegasus", "nllb", "m2m100", "t5", "mt5", "marian")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*kinds, []], metavar="CLASS", help=", ".join(kinds))
    parser.add_argument("--data", type=Path, required=True, help="folder with the Multi30k files")
    parser.add_argument("--out", type=Path, default=Path("var/hub"))
    parser.add_argument("--seconds", type=float, default=180, help="training time of each")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for kind in options.kinds or kinds:
        if not (options.out / kind).is_dir():
            build(kind, options.data, options.out / kind, options.seconds)


if __name__ == "__main__":
    main()
