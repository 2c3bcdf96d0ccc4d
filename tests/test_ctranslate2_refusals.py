"""CTranslate2 directories that cannot be served exactly, and files that are damaged or lie."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_edits import change_json, load, refusal
from ctranslate2_files import serialize, tiny_variables, tokens, write_directory

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
FLAG = np.array(1, np.int8)
HEADER = b"\6\0\0\0" + b"\2\0X\0" + struct.pack("<I", 7)
ONE = HEADER + struct.pack("<I", 1) + b"\2\0w\0"  # up to the name of the only variable


def test_the_family_is_recognised_by_model_and_vocabulary_or_header(tmp_path: Path) -> None:
    write_directory(tmp_path)
    assert load(tmp_path).family == "ctranslate2"
    for path in tmp_path.glob("*_vocabulary.json"):
        path.unlink()
    told = "no vocabulary: neither shared_vocabulary nor source_vocabulary, as .json or .txt"
    assert refusal(tmp_path).endswith(told)
    (tmp_path / "model.bin").write_bytes(b"\x00" * 100)
    assert "names no known architecture" in refusal(tmp_path)
    assert "binary version 0 is not supported; supported: 2 to 6" in refusal(tmp_path, "ctranslate2")
    (tmp_path / "model.bin").unlink()
    assert refusal(tmp_path, "ctranslate2").endswith("no model here (no model.bin)")


def test_a_git_lfs_pointer_is_called_that(tmp_path: Path) -> None:
    write_directory(tmp_path)
    (tmp_path / "model.bin").write_bytes(POINTER)
    assert "model.bin: a Git LFS pointer of" in refusal(tmp_path)


def test_a_file_cut_anywhere_is_refused_with_the_place(tmp_path: Path) -> None:
    write_directory(tmp_path)
    path = tmp_path / "model.bin"
    whole = path.read_bytes()
    cuts = [*range(64), *range(64, len(whole), 997), len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        message = refusal(tmp_path, "ctranslate2")
        assert f"{path}: truncated or damaged: " in message, cut
        assert "bytes, " in message
    path.write_bytes(whole[: len(whole) // 2])
    assert " at offset " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<I", 1) + b"\0" * 50, "binary version 1 is not supported; supported: 2 to 6"),
        (struct.pack("<I", 7) + b"\0" * 50, "binary version 7 is not supported"),
        (HEADER + struct.pack("<I", 2**32 - 1), "the name of variable 0 at offset"),
        (ONE + b"\xff", "w: rank 255, 8 at most"),
        (ONE + struct.pack("<B4IBI", 4, *[2**32 - 1] * 4, 0, 12),
         "float32 of shape [4294967295, 4294967295, 4294967295, 4294967295] is"),
        (ONE + struct.pack("<BIBI", 1, 2**30, 0, 2**32 - 4),
         "w: float32 of shape [1073741824] is 4294967296 bytes, 4294967292 are stored"),
        (ONE + struct.pack("<BIBI", 1, 2**29, 0, 2**31), "w at offset 30 needs 2147483648 bytes, 0 are left"),
        (ONE + struct.pack("<BBI", 0, 9, 4), "w: unknown type 9"),
        (b"\6\0\0\0" + b"\3\0\xff\xfe\0" + b"\0" * 50,
         "the name of the specification at offset 4 is not up to 512 printable characters"),
        (HEADER + struct.pack("<I", 1) + b"\4\0w\nw\0", "the name of variable 0 at offset 16 is not up to"),
    ],
)
def test_lengths_that_lie_are_found_before_memory_is_taken(tmp_path: Path, content: bytes, message: str) -> None:
    write_directory(tmp_path)
    (tmp_path / "model.bin").write_bytes(content)
    assert message in refusal(tmp_path)


def test_a_variable_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path)
    content = serialize({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}).replace(b"b\0", b"a\0")
    (tmp_path / "model.bin").write_bytes(content)
    assert "variable a is there twice" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"spec": "WhisperSpec"}, "specification 'WhisperSpec' is not supported; supported: TransformerBase, "
                                  "TransformerBig, TransformerSpec"),
        ({"revision": 8}, "revision 8 of TransformerSpec is not supported; supported: 1 to 7"),
    ],
)
def test_other_specifications_are_named_with_those_supported(
    tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    write_directory(tmp_path, **header)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "feature"),
    [
        ("encoder/layer_0/self_attention/relative_position_keys", np.zeros((5, 8), np.float32), "Shaw et al. 2018"),
        ("decoder/layer_0/self_attention/rotary_dim", np.array(0, np.int32), "rotary positions"),
        ("decoder/alibi", FLAG, "ALiBi positions"),
        ("encoder/embeddings_1/weight", np.zeros((4, 4), np.float32), "source factors"),
        ("encoder/multi_query_attention", FLAG, "multi-query attention"),
        ("encoder/layer_0/self_attention/num_heads_kv", np.array(1, np.int32), "1 heads of keys and 2 of queries"),
        ("decoder/layer_0/self_attention/q_norm/gamma", np.ones(8, np.float32), "norms of queries, keys or values"),
        ("decoder/layer_0/ffn/linear_0/weight_zero", np.ones((4, 4), np.int32), "weights quantised by AWQ"),
        ("decoder/final_logit_softcapping", np.array(30, np.float32), "soft-capped logits"),
        ("decoder/activation", np.array(3, np.int8), "activation 0 in the encoder, 3 in the decoder"),
        ("decoder/num_heads", np.array(4, np.int16), "num_heads 2 in the encoder, 4 in the decoder"),
        ("decoder/scale_embeddings", np.array(0, np.int8), "scale_embeddings 0 in the encoder, 1 in the decoder"),
        ("decoder/layer_0/attention/queries_scale", np.array(1, np.float32), "queries_scale that differs"),
    ],
)
def test_what_the_canonical_model_lacks_is_refused_by_name(
    tmp_path: Path, name: str, value: np.ndarray[Any, Any], feature: str
) -> None:
    write_directory(tmp_path, tiny_variables() | {name: value})
    message = refusal(tmp_path)
    assert "not supported" in message
    assert feature in message


def test_an_activation_without_a_counterpart_is_refused(tmp_path: Path) -> None:
    code = np.array(4, np.int8)
    write_directory(tmp_path, tiny_variables() | {"encoder/activation": code, "decoder/activation": code})
    assert "activation gelu (sigmoid) is not supported; supported: relu, gelu (tanh), swish, gelu" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder/layer_0/ffn/linear_1/weight": None}, "tensor encoder/layer_0/ffn/linear_1/weight missing"),
        ({"decoder/layer_norm/beta": None}, "tensor decoder/layer_norm/beta missing"),
        ({"encoder/layer_0/self_attention/linear_1/weight": None},
         "encoder/layer_0/self_attention: 2 or 4 variables linear_*/weight expected, 1 are there"),
        ({"decoder/embeddings/weight": None}, "no variable decoder/embeddings/weight"),
        ({"encoder/extra/weight": np.zeros((2, 2), np.float32)}, "tensor encoder/extra/weight not known"),
        ({"encoder/mode": FLAG}, "variable encoder/mode not known to this architecture"),
        ({"encoder/layer_2/ffn/linear_0/weight": np.zeros((2, 2), np.float32)}, "encoder/layer_2/ffn/linear_0/weight"),
        ({"decoder/projection/weight": np.zeros((24, 16), np.float32)}, "decoder/projection/weight is [24, 16] where"),
        ({"encoder/layer_norm/gamma": np.full(16, np.nan, np.float32)}, "tensor encoder/layer_norm/gamma not finite"),
        ({"decoder/projection/weight": np.ones((23, 16), np.int8)},
         "decoder/projection/weight: int8 values without decoder/projection/weight_scale"),
        ({"decoder/projection/weight": np.ones((23, 16), np.int8),
          "decoder/projection/weight_scale": np.ones(7, np.float32)}, "weight_scale has 7 values for 23 rows"),
        ({"decoder/projection/weight": np.ones((23, 16), np.int8),
          "decoder/projection/weight_scale": np.zeros(23, np.float32)}, "decoder/projection/weight not finite"),
        ({"encoder/num_heads": np.array(5, np.int16), "decoder/num_heads": np.array(5, np.int16)}, "5 heads"),
        ({"encoder/num_heads": np.zeros(3, np.int16)}, "encoder/num_heads has shape [3] where one value is expected"),
        ({"decoder/alignment_layer": np.array(1, np.int16)}, "alignment_layer: there is no layer 1 among 1"),
        ({"decoder/alignment_layer": np.array(-2, np.int16)}, "alignment_layer: there is no layer -2 among 1"),
        ({"decoder/alignment_heads": np.array(3, np.int16)}, "alignment_heads: 3 of 2 heads"),
        ({"decoder/alignment_heads": np.array(-1, np.int16)}, "alignment_heads: -1 of 2 heads"),
    ],
)
def test_variables_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, np.ndarray[Any, Any] | None], message: str
) -> None:
    variables: dict[str, Any] = tiny_variables() | changes
    write_directory(tmp_path)
    (tmp_path / "model.bin").write_bytes(
        serialize({name: value for name, value in variables.items() if value is not None})
    )
    assert message in refusal(tmp_path)


def test_a_small_file_cannot_ask_for_a_large_model(tmp_path: Path) -> None:
    variables = tiny_variables(layers=20)
    rows = {name: np.zeros((21 if "encoder" in name else 23, 60_000), np.int8) for name in variables
            if "embeddings" in name and name.endswith("/weight")}
    scales = {f"{name}_scale": np.ones(len(value), np.float32) for name, value in rows.items()}
    write_directory(tmp_path, variables | rows | scales)
    assert (tmp_path / "model.bin").stat().st_size < 5_000_000, "of 1 TB of parameters"
    assert "where the rest of the file makes it [60000, 16]" in refusal(tmp_path)


def test_a_vocabulary_that_does_not_fit_the_embedding_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path)
    for count in (20, 24):
        (tmp_path / "target_vocabulary.json").write_text(json.dumps(tokens(count)))
        assert refusal(tmp_path).endswith(f"target_vocabulary.json: {count} tokens, but the embedding has 23 rows")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'["a", ', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, content: bytes) -> None:
    write_directory(tmp_path)
    (tmp_path / "source_vocabulary.json").write_bytes(content)
    assert re.search(r"source_vocabulary\.json: not (JSON, or truncated|a list of tokens)", refusal(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token": ...}, "config.json: eos_token is not given"),
        ({"eos_token": "</end>"}, "has no '</end>', the model's eos_token"),
        ({"decoder_start_token": "de"}, "has no 'de', the model's decoder_start_token"),
        ({"decoder_start_token": 3}, "decoder_start_token 3 is not a string or null"),
        ({"add_source_eos": "yes"}, "add_source_eos 'yes' is not true or false"),
        ({"bos_token": None, "add_source_bos": True}, "has no '', the model's bos_token"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon 'small' is not a number from 0 to below 1 or null"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_directory(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    assert message in refusal(tmp_path)


def test_a_new_file_without_its_settings_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path)
    (tmp_path / "config.json").unlink()
    assert refusal(tmp_path).endswith("config.json: missing: files of version 6 keep the special tokens there")


def test_source_factors_are_refused(tmp_path: Path) -> None:
    write_directory(tmp_path)
    (tmp_path / "source_vocabulary.json").rename(tmp_path / "source_1_vocabulary.json")
    assert load(tmp_path).model.config.source_vocab_size == 21, "one alone may be numbered"
    (tmp_path / "source_2_vocabulary.json").write_text(json.dumps(tokens(4)))
    assert "source factors (source_2_vocabulary)" in refusal(tmp_path)
