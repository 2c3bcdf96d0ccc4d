"""The book's state dictionaries: equal to the book's arithmetic, and refused where something does not fit."""

import argparse
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from book_model import BookModel
from seqserve.text_errors import UnknownWord
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.families.checkpoint import LoadedCheckpoint, SourceOptions
from seqserve_export.families.d2l import find_vocabulary
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_export.word_files import WordFiles
from seqserve_server import verify_command
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.tokenizer.words import WordTokenizer
from seqserve_server.warm_up import warm_up

SOURCE = ["<unk>", "<bos>", "<eos>", "<pad>", *(f"word{n}" for n in range(20))]
TARGET = ["<pad>", "<unk>", *(f"wort{n}" for n in range(27)), "<eos>", "<bos>"]
IDS, PREFIX = [7, 5, 19, 2], [30, 4, 9, 9, 21, 3]


def write_book(directory: Path, *, bias: bool = False, settings: dict[str, object] | None = None) -> BookModel:
    """A random model of the book's in a directory of its own."""
    torch.manual_seed(11)
    model = BookModel(len(SOURCE), len(TARGET), bias=bias).eval().requires_grad_(False)
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors")
    (directory / "source_vocab.json").write_text(json.dumps(SOURCE))
    (directory / "target_vocab.json").write_text(json.dumps(TARGET))
    if settings is not None:
        (directory / "config.json").write_text(json.dumps(settings))
    return model


def read(directory: Path, heads: int | None = 4, positions: str | None = None) -> LoadedCheckpoint:
    return choose_family(directory).read(directory, SourceOptions(heads=heads, positions=positions))


def logits_of(checkpoint: LoadedCheckpoint) -> torch.Tensor:
    logits: torch.Tensor = checkpoint.model(torch.tensor([IDS]), torch.tensor([len(IDS)]), torch.tensor([PREFIX]))[0]
    return logits


@pytest.mark.parametrize("bias", [False, True])
def test_logits_over_a_whole_prefix_are_the_books(tmp_path: Path, bias: bool) -> None:
    book = write_book(tmp_path / "book", bias=bias)
    torch.testing.assert_close(logits_of(read(tmp_path / "book")), book(IDS, PREFIX), atol=1e-5, rtol=0)


def test_book_positions_are_those_of_its_predict(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    checkpoint = read(tmp_path / "book", positions="book")
    expected = book(IDS, PREFIX, [0] * len(PREFIX))
    torch.testing.assert_close(logits_of(checkpoint), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, book(IDS, PREFIX), atol=1e-2)
    assert "position 0" in checkpoint.notes[0]


@pytest.mark.parametrize("positions", [None, "book"])
def test_a_bundle_decodes_as_the_book_would(tmp_path: Path, positions: str | None) -> None:
    book = write_book(tmp_path / "book", settings={"num_heads": 4})
    options = ExportOptions(
        source=tmp_path / "book", out=tmp_path / "out", checkpoint=SourceOptions(positions=positions)
    )
    export_bundle(options, lambda directory, **how: LocalModel.open(directory, threads=1, **how))
    start, end = TARGET.index("<bos>"), TARGET.index("<eos>")
    random = Random(3)
    sources = [[*random.choices(range(4, 24), k=random.randrange(1, 30)), IDS[-1]] for _ in range(200)]
    with LocalModel.open(tmp_path / "out", threads=1) as model:
        assert model.description.family == "d2l"
        for ids, found in zip(sources, model.generate(sources, max_new_tokens=20), strict=True):
            tokens = [*found.token_ids, *[end] * (found.finish_reason == "eos")]
            logits = book(ids, [start, *tokens[:-1]], [0] * len(tokens) if positions == "book" else None)
            assert logits.argmax(1).tolist() == tokens
            np.testing.assert_allclose(model.step_logits(ids, tokens), logits, atol=1e-4)
        decoded = model.generate([IDS], max_new_tokens=12)[0].token_ids
        (answer,) = InProcess(model).generate("text", ["word3 word1  word15"], max_new_tokens=12, min_new_tokens=None)
    words = [TARGET[token_id] for token_id in decoded]
    (hypothesis,) = answer.hypotheses
    assert (hypothesis.token_ids, hypothesis.tokens) == (decoded, words)
    assert hypothesis.text == " ".join(word for word in words if word != "<bos>")


def test_a_bundle_whose_end_token_no_source_knows_is_verified_and_warmed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_book(tmp_path / "book", settings={"num_heads": 4})
    assert TARGET.index("<eos>") >= len(SOURCE)
    options = ExportOptions(source=tmp_path / "book", out=tmp_path / "out", scorer=False)
    export_bundle(options, lambda directory, **how: LocalModel.open(directory, threads=1, **how))
    assert verify_command.run(argparse.Namespace(bundle=tmp_path / "out")) == 0
    assert "the same alone and in a batch" in capsys.readouterr().out
    served = ServedModel.open(tmp_path / "out", EngineLimits(threads=1))
    list(warm_up(served))
    assert not (tmp_path / "out" / "scorer.onnx").exists()
    assert (served.engine.can_score, served.description.alignment) == (False, None)


def test_special_tokens_come_from_each_sides_own_vocabulary(tmp_path: Path) -> None:
    write_book(tmp_path / "book")
    checkpoint = read(tmp_path / "book")
    config = checkpoint.model.config
    assert (checkpoint.source_suffix, checkpoint.unk_id) == ((2,), 0)
    assert (config.pad_id, config.eos_id, config.decoder_start_id) == (0, 29, 30)
    assert config.max_source_length == 1000


def test_texts_are_words_between_spaces_and_answers_show_unknown_words_as_the_book_does(tmp_path: Path) -> None:
    write_book(tmp_path / "book")
    files = read(tmp_path / "book").tokenizer
    assert isinstance(files, WordFiles)
    assert files.encoder()(" word3  Word3 word1\tword1 word19 <eos>") == [7, 0, 0, 23, 2]
    tokenizer = WordTokenizer(files.vocabulary)
    assert tokenizer.decode([30, 2, 1, 0, 3, 29]) == "wort0 <unk> wort1"


def test_a_vocabulary_without_an_unknown_token_refuses_words_that_it_lacks(tmp_path: Path) -> None:
    write_book(tmp_path / "book")
    (tmp_path / "book" / "source_vocab.json").write_text(json.dumps(["nothing", *SOURCE[1:]]))
    checkpoint = read(tmp_path / "book")
    assert checkpoint.unk_id is None
    assert checkpoint.tokenizer is not None
    with pytest.raises(UnknownWord, match="word 2 is not in the vocabulary"):
        checkpoint.tokenizer.encoder()("word1 cat")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_vocabularies_end_their_lines_as_they_like(tmp_path: Path, end: str) -> None:
    write_book(tmp_path / "book")
    (tmp_path / "book" / "source_vocab.json").unlink()
    odd = [*SOURCE[:-2], "one\u2028token", "one\rtoken"]  # which other readers of lines would split
    (tmp_path / "book" / "source_vocab.txt").write_bytes("".join(f"{token}{end}" for token in odd).encode())
    assert find_vocabulary(tmp_path / "book", "source_vocab").tokens == tuple(odd)


def test_pickled_weights_and_text_vocabularies_are_read_too(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    (tmp_path / "book" / "model.safetensors").unlink()
    torch.save(book.state_dict(), tmp_path / "book" / "model.pt")
    for side, tokens in (("source", SOURCE), ("target", TARGET)):
        (tmp_path / "book" / f"{side}_vocab.json").unlink()
        (tmp_path / "book" / f"{side}_vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.testing.assert_close(logits_of(read(tmp_path / "book")), book(IDS, PREFIX), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("heads", "settings", "told"), [
    (None, None, "the head count cannot be read from the weights: give --heads N"),
    (5, None, "--heads 5: not a divisor of the width 24"),
    (0, None, "--heads 0: not a divisor"),
    (4, {"num_heads": 2}, "--heads 4: config.json says num_heads 2"),
    (4, {"num_hiddens": 32}, "num_hiddens is 32, but model.safetensors has 24"),
    (4, {"num_blks": 3}, "num_blks is 3, but model.safetensors has 2"),
    (4, {"use_bias": True}, "use_bias is True, but model.safetensors has False"),
    (4, {"lr": 0.1}, "unknown keys lr; known: num_hiddens"),
    (None, {"num_heads": 5}, "config.json: num_heads 5: not a divisor of the width 24"),
    (4, {"max_len": 0}, r"config.json: max_len 0 is not an integer in 2..131072"),
    (4, {"max_len": 10**12}, r"config.json: max_len 1000000000000 is not an integer in 2..131072"),
    (4, {"num_steps": 0}, "config.json: num_steps 0 is not an integer of at least 1"),
    (4, {"num_steps": "9"}, "config.json: num_steps '9' is not an integer of at least 1"),
    (4, {"num_steps": None}, "config.json: num_steps None is not an integer"),
    (4, {"num_hiddens": 24.0}, "config.json: num_hiddens 24.0 is not an integer"),
    (None, {"num_heads": [4]}, r"config.json: num_heads \[4\] is not an integer"),
    (None, {"num_heads": True}, "config.json: num_heads True is not an integer"),
    (4, {"use_bias": 0}, "config.json: use_bias 0 is not true or false"),
    (4, {"dropout": 1}, "config.json: dropout 1 is not a number from 0 to below 1"),
    (4, {"dropout": float("nan")}, "config.json: not JSON, or truncated: NaN is no number of JSON"),
])
def test_settings_that_do_not_fit_are_named(
    tmp_path: Path, heads: int | None, settings: dict[str, object] | None, told: str
) -> None:
    write_book(tmp_path / "book", settings=settings)
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book", heads)


@pytest.mark.parametrize(("side", "content", "told"), [
    ("source", SOURCE[:-1], "source_vocab.json: 23 tokens, but the embedding has 24 rows"),
    ("target", [*TARGET[:-1], "bos"], "target_vocab.json: has no <bos>"),
    ("source", [*SOURCE[:-1], "word1"], "source_vocab.json: 'word1' is there more than once"),
    ("target", {"<pad>": 0}, "target_vocab.json: not a list of tokens"),
    ("target", [1, 2], "target_vocab.json: not a list of tokens"),
])
def test_vocabularies_that_do_not_fit_are_named(tmp_path: Path, side: str, content: object, told: str) -> None:
    write_book(tmp_path / "book")
    (tmp_path / "book" / f"{side}_vocab.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book")


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    state = {f"net.{name}": tensor for name, tensor in book.state_dict().items()}
    save_file(state, tmp_path / "book" / "model.safetensors")
    with pytest.raises(ExportError, match="not the state dictionary of the book's Transformer"):
        read(tmp_path / "book")


def test_sizes_are_not_read_from_what_is_no_matrix(tmp_path: Path) -> None:
    state = write_book(tmp_path / "book").state_dict()
    state["decoder.embedding.weight"] = torch.zeros(len(TARGET))
    save_file(state, tmp_path / "book" / "model.safetensors")
    with pytest.raises(ExportError, match=rf"decoder\.embedding\.weight is \[{len(TARGET)}\], not a matrix"):
        read(tmp_path / "book")


def test_the_number_of_steps_is_the_bundles_default(tmp_path: Path) -> None:
    write_book(tmp_path / "book", settings={"num_steps": 9, "dropout": 0.1, "bias": False})
    assert read(tmp_path / "book").default_max_new_tokens == 9


def test_blocks_may_be_numbered_without_the_books_word(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    state = {name.replace(".block", "."): tensor for name, tensor in book.state_dict().items()}
    save_file(state, tmp_path / "book" / "model.safetensors")
    torch.testing.assert_close(logits_of(read(tmp_path / "book")), book(IDS, PREFIX), atol=1e-5, rtol=0)
    state["encoder.blks.block1.addnorm1.ln.bias"] = torch.zeros(24)
    save_file(state, tmp_path / "book" / "model.safetensors")
    with pytest.raises(ExportError, match=r"encoder\.blks\.block1\.addnorm1\.ln\.bias is there twice, under two names"):
        read(tmp_path / "book")


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    state = book.state_dict()
    del state["decoder.blks.block1.attention2.W_k.weight"]
    save_file(state, tmp_path / "book" / "model.safetensors")
    with pytest.raises(ExportError, match=r"tensor decoder\.blks\.block1\.attention2\.W_k\.weight missing"):
        read(tmp_path / "book")


def test_options_that_mean_nothing_to_a_family_are_refused(tmp_path: Path) -> None:
    demo = Path(__file__).parent.parent / "demo" / "en-de"
    with pytest.raises(ExportError, match="--heads: means nothing to the family native"):
        choose_family(demo).read(demo, SourceOptions(heads=4))
