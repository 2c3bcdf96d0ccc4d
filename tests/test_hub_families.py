"""BART, mBART, Pegasus, M2M100 and NLLB directories onto the canonical model: frames, weights, answers, texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_edits import change_json, change_tensors, load
from hub_files import GOLDEN, NAMES, Golden, copy
from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE
from seqserve_export import reference
from seqserve_export.families import language_codes
from seqserve_export.model.positions import fairseq_table
from seqserve_export.sentencepiece_files import SentencePieceFiles
from seqserve_server.tokenizer import IncrementalDetokenizer


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    golden = Golden.read(name)
    source, logits = next(golden.cases).sources[0], golden.expected["logits"]
    (found,) = reference.step_logits(
        golden.checkpoint.transformer, [source], [[*logits["fed"][1:], 0]], [logits["fed"][:1]]
    )
    allowed = np.ones(found.shape[1], dtype=bool)
    allowed[golden.checkpoint.provenance["suppressed_tokens"]] = False
    np.testing.assert_allclose(found[:, allowed], np.array(logits["values"])[:, allowed], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_sources_and_answers_are_those_of_transformers_in_every_language(name: str) -> None:
    golden = Golden.read(name)
    ended = set()
    for case in golden.cases:
        frame = golden.frame(case)
        contents = [frame.complete(tuple(ids)) for ids in golden.expected["contents"]]
        assert contents == [tuple(ids) for ids in case.sources]
        assert golden.decode(case) == case.rows
        ended |= {len(row) < 24 for row in case.rows}
    assert False in ended, "some answers run to the limit, where a forced end shows"


@pytest.mark.parametrize("name", NAMES)
def test_texts_become_the_ids_of_transformers_and_answers_its_texts(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name)
    tokenizer = golden.tokenizer(tmp_path)
    assert [tokenizer.encode(text) for text in golden.expected["texts"]] == golden.expected["contents"]
    assert golden.checkpoint.tokenizer is not None
    encode = golden.checkpoint.tokenizer.encoder()
    assert [encode(text) for text in golden.expected["texts"]] == golden.expected["contents"]
    languages = {f"__{code}__" for code in golden.checkpoint.languages}
    for case in golden.cases:
        prompt = len(golden.frame(case).prompt)
        for row, text in zip(case.rows, case.answers, strict=True):
            for token in languages:  # M2M100's are no special tokens to transformers, which leaves them in the text
                text = text.replace(token, "")
            if not languages or not set(row[prompt:]) & set(golden.checkpoint.languages.values()):
                assert tokenizer.decode(row[prompt:]) == text.strip() if languages else text


@pytest.mark.parametrize(("name", "source", "target", "frame"), [
    ("bart", None, None, ((0,), (2,), (2, 0))),
    ("pegasus", None, None, ((), (1,), (0,))),
    ("mbart", "de_DE", "fr_XX", ((), (2, 59), (64,))),
    ("mbart50", "en_XX", "de_DE", ((60,), (2,), (2, 59))),
    ("m2m100", "en", "de", ((75,), (2,), (2, 73))),
    ("nllb", "eng_Latn", "deu_Latn", ((59,), (2,), (2, 60))),
    ("nllb-legacy", "eng_Latn", "deu_Latn", ((), (2, 59), (2, 60))),
])
def test_each_class_has_its_own_frame(
    name: str, source: str | None, target: str | None, frame: tuple[tuple[int, ...], ...]
) -> None:
    checkpoint = load(GOLDEN / name)
    given = {SOURCE_LANGUAGE: source, TARGET_LANGUAGE: target}
    ids = {word: checkpoint.languages[code] for word, code in given.items() if code is not None}
    places = (checkpoint.source_prefix, checkpoint.source_suffix, checkpoint.decoder_prompt)
    assert tuple(tuple(ids.get(str(place), place) for place in each) for each in places) == frame


@pytest.mark.parametrize(("name", "languages", "source", "target"), [
    ("mbart", 25, "en_XX", "ro_RO"), ("mbart50", 52, "en_XX", None), ("m2m100", 100, "en", None),
    ("nllb", 4, "eng_Latn", None),
])
def test_languages_and_their_defaults_come_from_the_files(
    name: str, languages: int, source: str, target: str | None
) -> None:
    checkpoint = load(GOLDEN / name)
    assert len(checkpoint.languages) == languages
    assert (checkpoint.default_source_language, checkpoint.default_target_language) == (source, target)


def test_a_forced_language_is_the_default_target_and_comes_before_the_tokenizers(tmp_path: Path) -> None:
    directory = copy("mbart50", tmp_path)
    change_json(directory / "tokenizer_config.json", tgt_lang="de_DE", src_lang="fr_XX")
    checkpoint = load(directory)
    assert (checkpoint.default_source_language, checkpoint.default_target_language) == ("fr_XX", "de_DE")
    change_json(directory / "generation_config.json", forced_bos_token_id=checkpoint.languages["it_IT"])
    assert load(directory).default_target_language == "it_IT"
    assert load(directory).decoder_prompt == (2, TARGET_LANGUAGE)
    change_json(directory / "generation_config.json", forced_bos_token_id=7)
    assert load(directory).decoder_prompt == (2, 7), "what is forced and is no language is forced all the same"


def test_an_mbart_without_a_start_token_starts_from_the_target_language(tmp_path: Path) -> None:
    directory = copy("mbart", tmp_path)
    change_json(directory / "generation_config.json", decoder_start_token_id=...)
    checkpoint = load(directory)
    assert (checkpoint.decoder_prompt, checkpoint.default_target_language) == ((TARGET_LANGUAGE,), None)


def test_limits_count_a_named_language_as_transformers_does() -> None:
    limits = {name: load(GOLDEN / name).default_max_new_tokens for name in NAMES}
    assert limits == {name: 23 if name in ("pegasus", "mbart") else 22 for name in NAMES}, "max_length is 24"
    assert load(GOLDEN / "bart").default_min_new_tokens == 6


def test_languages_are_numbered_without_a_tokenizer_file(tmp_path: Path) -> None:
    wanted = load(GOLDEN / "mbart50").languages
    directory = copy("mbart50", tmp_path)
    (directory / "tokenizer.json").unlink()
    assert load(directory).languages == {}
    assert any("no tokenizer file tells the languages" in note for note in load(directory).notes)
    pieces = (GOLDEN / "m2m100" / "sentencepiece.bpe.model").read_bytes()
    (directory / "sentencepiece.bpe.model").write_bytes(pieces)
    checkpoint = load(directory)
    assert checkpoint.languages == wanted
    tokenizer = checkpoint.tokenizer
    assert isinstance(tokenizer, SentencePieceFiles), "pieces alone are enough for text"
    ids = tokenizer.encoder()("A man rides a horse.")
    assert ids
    assert max(ids) < min(wanted.values())
    assert tokenizer.encoder()("de_DE") == [wanted["de_DE"]], "a language's token written in a text is that token"


def test_the_lists_of_languages_have_what_their_models_have() -> None:
    lists = (language_codes.M2M100, language_codes.WMT21, language_codes.MBART_25, language_codes.MBART_50,
             language_codes.NLLB)
    assert [len(codes) for codes in lists] == [100, 8, 25, 52, 202]
    assert all(len({*codes}) == len(codes) for codes in lists)


def test_a_tokenizer_that_was_saved_with_truncation_cuts_nothing(tmp_path: Path) -> None:
    directory = copy("bart", tmp_path)
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
               "pad_type_id": 0, "pad_token": "<pad>"}
    change_json(directory / "tokenizer.json", truncation=truncation, padding=padding)
    golden = Golden(load(directory), Golden.read("bart").expected)
    assert golden.checkpoint.tokenizer is not None
    for encode in (golden.tokenizer(tmp_path).encode, golden.checkpoint.tokenizer.encoder()):
        assert [encode(text) for text in golden.expected["texts"]] == golden.expected["contents"]


@pytest.mark.parametrize("name", ["m2m100", "nllb", "bart"])
def test_a_stream_has_the_text_of_the_whole(name: str, tmp_path: Path) -> None:
    golden = Golden.read(name)
    tokenizer = golden.tokenizer(tmp_path)
    for ids in golden.expected["contents"]:
        stream, whole = IncrementalDetokenizer(tokenizer), tokenizer.decode(ids)
        assert "".join(stream.push([token_id]) for token_id in ids) + stream.finish(whole) == whole


@pytest.mark.parametrize("listed", [["__de__", "<other>"], {"german_token": "__de__"}])
def test_m2m100_language_tokens_have_names_and_are_content_only_where_listed(tmp_path: Path, listed: object) -> None:
    directory = copy("m2m100", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    tokenizer = Golden(load(directory), {}).tokenizer(tmp_path / "one")
    assert (tokenizer.id_of("__de__"), tokenizer.tokens([73, 9999])) == (73, ["__de__", "<9999>"])
    assert 73 not in tokenizer.encode("__de__ A man")
    change_json(directory / "tokenizer_config.json", extra_special_tokens=listed)
    tokenizer = Golden(load(directory), {}).tokenizer(tmp_path / "two")
    assert tokenizer.encode("__de__ A man")[0] == 73
    assert tokenizer.decode([73, *tokenizer.encode("A man")]) == "A man"


def test_what_is_not_done_as_there_is_noted(tmp_path: Path) -> None:
    directory = copy("pegasus", tmp_path)
    change_json(directory / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    assert any("clean_up_tokenization_spaces is not applied" in note for note in load(directory).all_notes)
    directory = copy("bart", tmp_path)
    change_json(directory / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    assert load(directory).all_notes == (), "transformers does not apply it to byte pairs either"
    (directory / "tokenizer.json").rename(directory / "merges.txt")
    assert load(directory).all_notes == (
        "without tokenizer.json or vocab.json (there is merges.txt): the bundle takes and returns token ids",
    )
    assert (load(directory).source_prefix, load(directory).source_suffix) == ((0,), (2,))
    directory = copy("mbart50", tmp_path)
    for name in ("config.json", "generation_config.json"):
        change_json(directory / name, decoder_start_token_id=...)
    assert any("decoding starts from the end token" in note for note in load(directory).notes)


# --- weights


def test_the_class_without_an_output_is_read_with_its_embedding_as_output(tmp_path: Path) -> None:
    directory = copy("bart", tmp_path)
    tensors = load_file(directory / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name != "final_logits_bias"}
    save_file(bare, directory / "model.safetensors")
    change_json(directory / "config.json", architectures=["BartModel"])
    model, whole = load(directory).transformer, load(GOLDEN / "bart").transformer
    assert torch.equal(model.output.weight, whole.output.weight)
    assert model.output_bias is not None
    assert not model.output_bias[4:].any()


@pytest.mark.parametrize("name", ["bart", "mbart", "pegasus", "m2m100"])
def test_untied_embeddings_are_three_tables(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    shared = load_file(directory / "model.safetensors")["model.shared.weight"]
    tables = {"model.encoder.embed_tokens.weight": shared + 1, "model.decoder.embed_tokens.weight": shared + 2,
              "lm_head.weight": shared + 3}
    change_tensors(directory, **tables)
    change_json(directory / "config.json", tie_word_embeddings=False)
    model = load(directory).transformer
    found = (model.source_embedding.tokens.weight, model.target_embedding.tokens.weight, model.output.weight)
    assert all(torch.equal(one, other) for one, other in zip(found, tables.values(), strict=True))


def test_an_output_untied_by_transformers_4_leaves_one_embedding_for_both_sides(tmp_path: Path) -> None:
    directory = copy("mbart", tmp_path)
    shared = load_file(directory / "model.safetensors")["model.shared.weight"]
    change_tensors(directory, **{"lm_head.weight": shared + 3})
    change_json(directory / "config.json", tie_word_embeddings=False)
    model = load(directory).transformer
    found = (model.source_embedding.tokens.weight, model.target_embedding.tokens.weight, model.output.weight)
    assert all(torch.equal(one, other) for one, other in zip(found, (shared, shared, shared + 3), strict=True))


def test_m2m100_has_an_output_bias_only_for_suppressed_tokens(tmp_path: Path) -> None:
    directory = copy("nllb", tmp_path)
    change_json(directory / "generation_config.json", bad_words_ids=...)
    assert load(directory).transformer.output_bias is None
    change_json(directory / "generation_config.json", suppress_tokens=[9])
    bias = load(directory).transformer.output_bias
    assert bias is not None
    assert bias.nonzero().tolist() == [[9]]


@pytest.mark.parametrize(("name", "table"), [("m2m100", "weights"), ("pegasus", "weight")])
def test_stored_sinusoids_are_compared_and_dropped(name: str, table: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    whole = load(directory).transformer.source_embedding.positions
    assert whole is not None
    stored = whole.clone()
    if name == "m2m100":
        stored[1] = 0  # the padding token's row, as fairseq has it
    change_tensors(directory, **{f"model.encoder.embed_positions.{table}": stored.half()})
    again = load(directory).transformer.source_embedding.positions
    assert again is not None
    assert torch.equal(again, whole)


def test_fairseqs_sinusoids_end_at_the_lowest_frequency() -> None:
    table = fairseq_table(3, 9)
    assert table[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    assert table[2, 3] == pytest.approx(2 / 10000)
    assert table[1, 0] == pytest.approx(np.sin(1.0))


def test_settings_that_a_file_leaves_out_are_those_of_the_class(tmp_path: Path) -> None:
    directory = copy("nllb", tmp_path)
    left_out = ("activation_function", "scale_embedding", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    change_json(directory / "config.json", **dict.fromkeys(left_out, ...))
    (directory / "generation_config.json").unlink()
    checkpoint = load(directory)
    config = checkpoint.transformer.config
    assert (config.activation, config.pad_id, config.eos_id, config.decoder_start_id) == ("relu", 1, 2, 2)
    assert config.embedding_scale == 4.0
