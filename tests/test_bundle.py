"""Reading ``model.json`` and ``manifest.json``: whatever is wrong is one line that names it."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve.bundle import BundleError, ModelDescription, StateTensor, read_model
from seqserve.manifest import check_manifest, write_manifest
from seqserve.search_defaults import SearchDefaults
from serving import describe

GOOD: dict[str, Any] = json.loads(describe(source_prefix=(3,)).to_json())
REQUIRED = {
    field.name for field in dataclasses.fields(ModelDescription)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
}
STATE: dict[str, Any] = GOOD["states"][0]


def refused(changes: dict[str, Any]) -> str:
    with pytest.raises(BundleError) as caught:
        ModelDescription.from_json(json.dumps({**GOOD, **changes}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_description_survives_the_file() -> None:
    search = SearchDefaults(beam_size=4, length_penalty=-0.2, patience=1.5, stopping="patience")
    model = describe(source_prefix=(3,), dimensions={"width": 8}, unk_id=None, search=search)
    assert ModelDescription.from_json(model.to_json()) == model


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_field_of_a_wrong_type_is_named(name: str) -> None:
    fits: dict[str, list[Any]] = {
        "unk_id": [7, None], "dimensions": [{"x": 1}], "provenance": [{"x": 1}], "name": ["512"], "family": ["512"],
        "forced_end": [True], "alignment": [None], "languages": [{"x": 1}],
        "default_source_language": [None], "default_target_language": [None],
    }
    numbers = [7] if isinstance(GOOD[name], int) else []
    for wrong in ({"x": 1}, [["x"]], 1.5, True, "512", 7, None):
        if wrong not in fits.get(name, numbers) and not (name == "precision" and wrong == "512"):
            assert re.search(f"{name}|state", refused({name: wrong}))


@pytest.mark.parametrize(("changes", "said"), [
    ({"colour": "red"}, "unknown fields: colour"),
    ({"format": 1}, "format 1 is not 3; export the model again"),
    ({"precision": "fp8"}, "precision 'fp8' is not one of fp32, fp16, int8"),
    ({"default_max_new_tokens": 0}, "default_max_new_tokens 0 is outside 1..64"),
    ({"default_max_new_tokens": 65}, "default_max_new_tokens 65 is outside 1..64"),
    ({"default_min_new_tokens": 65}, "default_min_new_tokens 65 is outside 0..64"),
    ({"max_source_length": 0}, "max_source_length: 0 is not positive"),
    ({"states": []}, "a decoder without state"),
    ({"source_prefix": [29]}, "source_prefix: id 29 is outside 0..28"),
    ({"source_suffix": [-1]}, "source_suffix: id -1 is outside 0..28"),
    ({"decoder_prompt": [29]}, "decoder_prompt: id 29 is outside 0..28"),
    ({"decoder_prompt": []}, "decoder_prompt: at least the start token is needed"),
    ({"decoder_prompt": [2, 3, 4]}, "default_max_new_tokens 64 is outside 1..62"),
    ({"decoder_prompt": ["source_language"]}, "'source_language' is neither an id nor 'target_language'"),
    ({"decoder_prompt": ["target_language"]}, "languages: decoder_prompt needs them, and there are none"),
    ({"languages": {"de": 29}}, "languages: id 29 is outside 0..28"),
    ({"languages": {"de": "x"}}, "languages: {'de': 'x'} is not an object of integers"),
    ({"default_target_language": "fr"}, "default_target_language: 'fr' is not one of the languages"),
    ({"eos_id": -1}, "eos_id: id -1 is outside 0..28"),
])
def test_a_value_out_of_range_is_named_with_its_bounds(changes: dict[str, Any], said: str) -> None:
    assert said in refused(changes)


@pytest.mark.parametrize(("changes", "said"), [
    ({"scope": "batch"}, "scope 'batch' is not one of row, request"),
    ({"length": "all"}, "length 'all' is not one of source, target, fixed"),
    ({"update": "grow"}, "update 'grow' is not one of append, replace, constant"),
    ({"dtype": "int8"}, "dtype 'int8' is not one of float32, float16"),
    ({"shape": [2]}, "shape [2] does not fit length 'target'"),
    ({"shape": ["length", "length"]}, "does not fit length 'target'"),
    ({"shape": ["width", 2]}, "does not fit length 'target'"),
    ({"shape": ["length", 0]}, "count and sizes must be positive"),
    ({"shape": ["length", True]}, "count and sizes must be positive"),
    ({"shape": None}, "states are malformed"),
    ({"count": 0}, "count and sizes must be positive"),
    ({"count": "2"}, "count and sizes must be positive"),
    ({"count": 1.5}, "count and sizes must be positive"),
    ({"colour": "red"}, "states are malformed"),
])
def test_a_state_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refused({"states": [{**STATE, **changes}]})


@pytest.mark.parametrize(("changes", "said"), [
    ({"colour": "red"}, "search.colour: unknown field"),
    ({"num_hypotheses": 2}, "search.num_hypotheses: unknown field"),
    ({"beam_size": 0}, "search.beam_size: 0 is outside 1..32"),
    ({"beam_size": 33}, "search.beam_size: 33 is outside 1..32"),
    ({"beam_size": 4.0}, "search.beam_size: 4.0 is not an integer"),
    ({"beam_size": True}, "search.beam_size: True is not an integer"),
    ({"beam_size": None}, "search.beam_size: None is not an integer"),
    ({"length_penalty": 10.5}, "search.length_penalty: 10.5 is outside -10..10"),
    ({"length_penalty": -(10**400)}, "search.length_penalty: -1000"),
    ({"length_penalty": float("nan")}, "search.length_penalty: nan is not a number"),
    ({"length_penalty": "1"}, "search.length_penalty: '1' is not a number"),
    ({"patience": 0}, "search.patience: 0 is not over 0 and at most 10"),
    ({"patience": 11}, "search.patience: 11 is not over 0 and at most 10"),
    ({"patience": float("inf")}, "search.patience: inf is not a number"),
    ({"patience": False}, "search.patience: False is not a number"),
    ({"stopping": "early"}, "search.stopping: 'early' is not one of heuristic, full, exhaustive, patience"),
    ({"stopping": 1}, "search.stopping: 1 is not a string"),
    ({"suppressed": [5]}, "search.suppressed: [5] is not a list of lists of ids"),
    ({"suppressed": [[]]}, "search.suppressed: [[]] is not a list of lists of ids"),
    ({"suppressed": [[5, 10**6]]}, "search.suppressed: id 1000000 is outside"),
])
def test_a_search_default_that_cannot_be_is_named_with_its_bounds(changes: dict[str, Any], said: str) -> None:
    assert refused({"search": {**GOOD["search"], **changes}}).startswith(f"model.json: {said}")


def test_search_defaults_that_are_left_out_are_greedy() -> None:
    model = ModelDescription.from_json(json.dumps({**GOOD, "search": {"length_penalty": 2}}))
    assert model.search == SearchDefaults(beam_size=1, length_penalty=2.0, patience=1.0, stopping="heuristic")


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(BundleError, match=f"missing fields: {name}"):
        ModelDescription.from_json(json.dumps({key: value for key, value in GOOD.items() if key != name}))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[" * 100_000, '"x"', "{'a': 1}"])
def test_what_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"model\.json: not"):
        ModelDescription.from_json(text)


def test_words_of_a_file_break_no_line_and_command_no_terminal() -> None:
    with pytest.raises(BundleError) as caught:
        ModelDescription.from_json(json.dumps({**GOOD, "a\nb\x1b[2J\udc80ö": 1}))
    assert str(caught.value) == r"model.json: unknown fields: a\nb\x1b[2J\udc80ö"


@given(st.dictionaries(st.sampled_from(sorted(GOOD)) | st.text(max_size=5), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=4,
), min_size=1, max_size=3))
def test_nothing_but_a_bundle_error_of_one_line_comes_out_of_a_mutated_description(changes: dict[str, Any]) -> None:
    said = ""
    try:
        ModelDescription.from_json(json.dumps({**GOOD, **changes}))
    except BundleError as error:
        said = str(error)
    assert said.isprintable()


def test_state_sizes_by_hand() -> None:
    state = StateTensor("self", 3, (4, "length", 8), "float32", "row", "target", "append")
    assert (state.length_axis, state.unit_bytes) == (1, 3 * 4 * 8 * 4)
    hidden = StateTensor("hidden", 2, (16,), "float16", "row", "fixed", "replace")
    assert (hidden.length_axis, hidden.unit_bytes) == (None, 2 * 2 * 16 * 2)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    (directory / "tokenizer").mkdir(parents=True)
    for name in ("encoder.onnx", "decoder.onnx", "tokenizer/tokenizer.json"):
        (directory / name).write_bytes(name.encode() * 100)
    (directory / "model.json").write_text(json.dumps(GOOD))
    write_manifest(directory)
    return directory


def broken(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        check_manifest(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(bundle: Path, **changes: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def listed(bundle: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())["files"]
    return files


def test_a_whole_bundle_has_a_version_that_changes_with_its_content(bundle: Path) -> None:
    version = check_manifest(bundle)
    assert len(version) == 12
    assert check_manifest(bundle) == version
    (bundle / "encoder.onnx").write_bytes(b"other")
    write_manifest(bundle)
    assert check_manifest(bundle) != version


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "model.json", "tokenizer/tokenizer.json"])
def test_a_missing_truncated_or_corrupt_file_is_named(bundle: Path, name: str) -> None:
    path = bundle / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert broken(bundle).startswith(f"{name}: {len(data) - 1} bytes where manifest.json says {len(data)}")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert broken(bundle) == f"{name}: content does not match its SHA-256 in manifest.json"
    path.unlink()
    assert broken(bundle) == f"{name}: listed in manifest.json but missing"
    path.mkdir()
    assert broken(bundle) == f"{name}: listed in manifest.json but missing"


def test_a_directory_that_is_missing_or_no_bundle_is_named(tmp_path: Path) -> None:
    assert "no such bundle directory" in broken(tmp_path / "nothing")
    assert "it has no manifest.json" in broken(tmp_path)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "model.json"])
def test_a_manifest_must_list_the_files_that_every_bundle_has(bundle: Path, name: str) -> None:
    rewrite(bundle, files={key: value for key, value in listed(bundle).items() if key != name})
    assert broken(bundle) == f"manifest.json: does not list {name}"


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "weights.data"])
def test_a_file_that_would_be_read_must_be_listed_when_it_is_there(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"planted")
    rewrite(bundle, files={key: value for key, value in listed(bundle).items() if key != name})
    assert broken(bundle) == f"{name}: present, but not listed in manifest.json"


def test_a_file_that_is_never_read_may_be_there(bundle: Path) -> None:
    (bundle / "..data").write_bytes(b"left by a volume mount")
    check_manifest(bundle)


@pytest.mark.parametrize("name", [
    "../outside", "/etc/hostname", "a/../../outside", "./encoder.onnx", "a//b", "", ".hidden", "a\\b", "C:x", "a\nb",
    "a/.", "nul\0",
])
def test_a_path_that_is_not_plain_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"secret")
    rewrite(bundle, files={**listed(bundle), name: {"sha256": "0", "bytes": 6}})
    assert broken(bundle).endswith("is not a plain relative path")


def test_a_link_that_leads_outside_is_refused_and_one_that_stays_inside_is_not(bundle: Path) -> None:
    model = bundle / "model.json"
    inside = bundle / "real.json"
    model.rename(inside)
    model.symlink_to("real.json")
    check_manifest(bundle)
    inside.rename(bundle.parent / "outside.json")
    model.unlink()
    model.symlink_to(bundle.parent / "outside.json")
    assert broken(bundle) == "model.json: leads outside the bundle"


def test_a_linked_directory_that_leads_outside_is_refused(bundle: Path) -> None:
    (bundle / "tokenizer").rename(bundle.parent / "elsewhere")
    (bundle / "tokenizer").symlink_to(bundle.parent / "elsewhere")
    assert broken(bundle) == "tokenizer/tokenizer.json: leads outside the bundle"


def test_a_pipe_in_place_of_a_file_does_not_block(bundle: Path) -> None:
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")
    assert broken(bundle) == "encoder.onnx: listed in manifest.json but missing"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", "{}", '{"format": 3}', '{"format": 3, "files": []}', '{"format": 3, "files": {"a": 1}}',
    '{"format": 3, "files": {"a": {"sha256": "x"}}}', '{"format": 3, "files": {"a": {"sha256": "x", "bytes": []}}}',
    '{"format": 3, "files": {"a": {"sha256": "x", "bytes": Infinity}}}', "[" * 100_000, "\udcff",
])
def test_a_malformed_manifest_is_refused(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    assert broken(bundle).startswith("manifest.json: malformed")


def test_a_manifest_of_another_format_says_what_to_do(bundle: Path) -> None:
    rewrite(bundle, format=1)
    assert broken(bundle) == "manifest.json: format 1 is not 3; export the model again"


def test_an_unreadable_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.json: cannot be read"):
        read_model(tmp_path)
    (tmp_path / "model.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"model\.json: cannot be read"):
        read_model(tmp_path)
