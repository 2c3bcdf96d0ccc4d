"""The joint English-German subword tokenizer: byte-pair encoding with byte fallback, written as tokenizer.json."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
SPACE = "\u2581"


def train_subwords(lines: Iterable[str], entries: int) -> Tokenizer:
    """Train byte-pair encoding of ``entries`` entries, special tokens and the 256 bytes included.

    Case is kept. Punctuation and digits stand alone, so that "man." needs no piece of its own; spaces are carried by
    the pieces, so that decoding is concatenation.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True),
        pre_tokenizers.Punctuation(behavior="isolated"),
        pre_tokenizers.Digits(individual_digits=True),
    ])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=SPECIAL + BYTES, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return with_byte_fallback(tokenizer)


def with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """Turn the byte entries from special tokens, which the trainer needs to number them, into plain fallback pieces.

    Were they left special, the text "<0x41>" would be read as a byte, and decoding would skip real bytes.
    """
    description = json.loads(tokenizer.to_str())
    description["model"]["byte_fallback"] = True
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(description, ensure_ascii=False))


def lossy_lines(tokenizer: Tokenizer, lines: Iterable[str]) -> list[str]:
    """Lines that do not come back from encoding and decoding, runs of white space aside."""
    texts = list(lines)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    decoded = tokenizer.decode_batch(ids, skip_special_tokens=False)
    return [text for text, back in zip(texts, decoded, strict=True) if text.split() != back.split()]
