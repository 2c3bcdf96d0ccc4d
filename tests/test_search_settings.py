"""How a bundle searches by default: what each family's source, and its library, would do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import hub_files
from checkpoint_edits import change_json, load, refusal
from ctranslate2_files import write_directory
from seqserve.bundle import ModelDescription
from seqserve.search_defaults import SearchDefaults
from seqserve_export.description import describe
from seqserve_export.families.search_settings import APPLIED, NOT_APPLIED, read_search, search_notes
from tiny_model import write_marian, write_native

DATA = Path(__file__).parent / "data"
SAVED = {name: hub_files.GOLDEN / name for name in hub_files.NAMES} | {"marian": DATA / "marian", "t5": DATA / "t5"}
GENERATION = WHERE = "generation_config.json"


def copied(name: str, directory: Path) -> Path:
    return shutil.copytree(SAVED[name], directory / name)


@pytest.mark.parametrize("name", SAVED)
def test_a_directory_of_transformers_decodes_as_its_generation_settings_say(name: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path)
    checkpoint = load(directory)
    forced = len(checkpoint.decoder_prompt) - 1  # such as the target's language, which generate counts in lengths
    assert checkpoint.search == SearchDefaults(stopping="heuristic", extra_length=forced, top_k=50)
    assert not [note for note in checkpoint.notes if "not applied" in note or "renormalize" in note]
    words = [*json.loads((directory / GENERATION).read_text()).get("bad_words_ids", []), [5, 6], [7, 5, 6]]
    change_json(directory / GENERATION, num_beams=4, length_penalty=0.8, early_stopping=True, no_repeat_ngram_size=3,
                encoder_no_repeat_ngram_size=2, bad_words_ids=words)
    checkpoint = load(directory)
    expected = SearchDefaults(
        beam_size=4, length_penalty=0.8, stopping="full", no_repeat_ngram_size=3, extra_length=forced, top_k=50,
        suppressed=((5, 6), (7, 5, 6)),
    )
    assert checkpoint.search == expected
    assert f"{WHERE}: encoder_no_repeat_ngram_size 2 is not applied" in checkpoint.notes
    assert checkpoint.provenance["generation"]["num_beams"] == 4
    description = describe(checkpoint, "m", "fp32")
    assert ModelDescription.from_json(description.to_json()).search == expected


@pytest.mark.parametrize("name", ["marian", "bart", "t5"])
def test_settings_from_before_the_generation_file_are_in_the_configuration(name: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path)
    settings = json.loads((directory / GENERATION).read_text())
    (directory / GENERATION).unlink()
    ids = {key: value for key, value in settings.items() if key.endswith("_token_id")}
    change_json(directory / "config.json", **ids, num_beams=6, early_stopping="never", repetition_penalty=1.2)
    checkpoint = load(directory)
    assert checkpoint.search == SearchDefaults(
        beam_size=6, stopping="exhaustive", repetition_penalty=1.2, top_k=50,
        extra_length=len(checkpoint.decoder_prompt) - 1,
    )
    change_json(directory / "config.json", num_beams=0)
    assert refusal(directory) == "config.json: num_beams 0 is not an integer in 1..32 or null"


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, SearchDefaults(top_k=50)),
    (dict.fromkeys(APPLIED), SearchDefaults(top_k=50)),
    ({"early_stopping": False}, SearchDefaults(stopping="heuristic", top_k=50)),
    ({"early_stopping": True}, SearchDefaults(stopping="full", top_k=50)),
    ({"early_stopping": "never"}, SearchDefaults(stopping="exhaustive", top_k=50)),
    ({"num_beams": 32, "length_penalty": 2}, SearchDefaults(beam_size=32, length_penalty=2.0, top_k=50)),
    ({"length_penalty": -0.5}, SearchDefaults(length_penalty=-0.5, top_k=50)),
    ({"length_penalty": 0}, SearchDefaults(length_penalty=0.0, top_k=50)),
    ({"repetition_penalty": 2, "no_repeat_ngram_size": 3},
     SearchDefaults(repetition_penalty=2.0, no_repeat_ngram_size=3, top_k=50)),
    ({"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9},
     SearchDefaults(sample=True, temperature=0.7, top_k=0, top_p=0.9)),
    ({"do_sample": False, "temperature": 2}, SearchDefaults(temperature=2.0, top_k=50)),
    ({"do_sample": True, "num_beams": 4}, SearchDefaults(beam_size=4, top_k=50)),
])
def test_what_generation_settings_mean(settings: dict[str, Any], expected: SearchDefaults) -> None:
    assert read_search(settings, WHERE) == expected


@pytest.mark.parametrize(("settings", "said"), [
    ({"num_beams": 0}, "num_beams 0 is not an integer in 1..32 or null"),
    ({"num_beams": 33}, "num_beams 33 is not an integer in 1..32 or null"),
    ({"num_beams": "x"}, "num_beams 'x' is not an integer in 1..32 or null"),
    ({"num_beams": 4.0}, "num_beams 4.0 is not an integer in 1..32 or null"),
    ({"num_beams": True}, "num_beams True is not an integer in 1..32 or null"),
    ({"num_beams": [4]}, "num_beams [4] is not an integer in 1..32 or null"),
    ({"length_penalty": "1"}, "length_penalty '1' is not a number in -10..10 or null"),
    ({"length_penalty": 11}, "length_penalty 11 is not a number in -10..10 or null"),
    ({"length_penalty": False}, "length_penalty False is not a number in -10..10 or null"),
    ({"early_stopping": "always"}, "early_stopping 'always' is not true, false, \"never\" or null"),
    ({"repetition_penalty": 0}, "repetition_penalty 0 is not a number in 0.001..1000 or null"),
    ({"repetition_penalty": "1"}, "repetition_penalty '1' is not a number in 0.001..1000 or null"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size -1 is not an integer of at least 0 or null"),
    ({"do_sample": 1}, "do_sample 1 is not true or false or null"),
    ({"temperature": 0.0}, "temperature 0.0 is not a number in 0.001..1000 or null"),
    ({"top_k": 2.5}, "top_k 2.5 is not an integer of at least 0 or null"),
    ({"top_p": 0}, "top_p 0 is not a number over 0 and at most 1 or null"),
    ({"top_p": 1.5}, "top_p 1.5 is not a number over 0 and at most 1 or null"),
    ({"early_stopping": 1}, "early_stopping 1 is not true, false, \"never\" or null"),
])
def test_a_search_setting_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    write_marian(tmp_path)
    change_json(tmp_path / GENERATION, **settings)
    assert refusal(tmp_path) == f"{WHERE}: {said}"


@pytest.mark.parametrize(("name", "value"), [
    ("encoder_no_repeat_ngram_size", 4),
    ("encoder_repetition_penalty", 0.9), ("begin_suppress_tokens", [3]), ("sequence_bias", [[[3], -1.0]]),
    ("exponential_decay_length_penalty", [5, 1.1]), ("num_beam_groups", 2), ("diversity_penalty", 0.5),
    ("num_return_sequences", 3), ("min_p", 0.1),
    ("typical_p", 0.5), ("penalty_alpha", 0.6), ("force_words_ids", [[3]]), ("stop_strings", ["."]),
])
def test_a_setting_that_is_not_applied_is_named_with_its_value(name: str, value: Any) -> None:
    assert search_notes({name: value}, WHERE) == (f"{WHERE}: {name} {value!r} is not applied",)


def test_draws_from_beams_are_not_applied_and_said_so() -> None:
    settings = {"do_sample": True, "num_beams": 4, "temperature": 0.7}
    assert search_notes(settings, WHERE) == (f"{WHERE}: do_sample is not applied: with num_beams 4 nothing is drawn",)
    assert search_notes({**settings, "num_beams": 1}, WHERE) == ()


def test_settings_that_do_nothing_are_not_worth_a_note() -> None:
    for place in range(max(map(len, NOT_APPLIED.values()))):
        values = {name: neutral[min(place, len(neutral) - 1)] for name, neutral in NOT_APPLIED.items()}
        assert search_notes(values, WHERE) == ()
    assert search_notes({"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "use_cache": True}, WHERE) == ()


def test_scores_without_suppressed_tokens_are_noted_where_beams_are_compared_by_them() -> None:
    settings: dict[str, Any] = {"num_beams": 4, "bad_words_ids": [[7]]}
    (note,) = search_notes(settings, WHERE)
    assert note == (
        f"{WHERE}: scores leave out the tokens of bad_words_ids, as with renormalize_logits, which is not set"
    )
    assert search_notes({**settings, "renormalize_logits": True}, WHERE) == ()
    assert search_notes({**settings, "num_beams": 1}, WHERE) == ()
    assert search_notes({**settings, "bad_words_ids": []}, WHERE) == ()


def test_a_ctranslate2_directory_decodes_as_translate_batch_does(tmp_path: Path) -> None:
    write_directory(tmp_path)
    expected = SearchDefaults(
        beam_size=2, length_penalty=1.0, patience=1.0, stopping="patience", renormalise=True
    )
    assert load(tmp_path).search == expected
    assert load(DATA / "ctranslate2" / "marian").search == expected, "whatever it was converted from"


def test_a_model_of_no_library_decodes_greedily(tmp_path: Path) -> None:
    write_native(tmp_path)
    assert load(tmp_path).search == SearchDefaults(beam_size=1, length_penalty=1.0, stopping="heuristic")
