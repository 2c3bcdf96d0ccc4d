"""Weights in several files: read as one, mapped and not copied, and refused where index and files disagree."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_edits import change_json, load, refusal
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.families.files import check_sha256

DATA = Path(__file__).parent / "data"
BART, NLLB, T5, MARIAN = (DATA / name for name in ("hub/bart", "hub/nllb", "t5", "marian"))
FORMATS = {
    "model.safetensors": "model-{:05}-of-{:05}.safetensors", "pytorch_model.bin": "pytorch_model-{:05}-of-{:05}.bin",
}


def store(tensors: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def shard(source: Path, directory: Path, name: str = "model.safetensors", count: int = 3) -> Path:
    """A copy whose weights are in several files, as ``save_pretrained`` with a small ``max_shard_size`` writes them."""
    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(count):
        file = FORMATS[name].format(number + 1, count)
        part = {each: tensors[each] for each in names[number::count]}
        store(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (directory / f"{name}.index.json").write_text(json.dumps(index))
    return directory


def index_of(directory: Path) -> Path:
    return directory / "model.safetensors.index.json"


def remap(directory: Path, **changes: Any) -> None:
    """Other files for some tensors; ``...`` takes them out."""
    mapped = json.loads(index_of(directory).read_text())["weight_map"] | changes
    change_json(index_of(directory), weight_map={name: file for name, file in mapped.items() if file is not ...})


def mappings(directory: Path) -> dict[range, str]:
    """Addresses at which this process has files of the directory mapped (Linux)."""
    found = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        if path.startswith(f"{directory}/"):
            first, last = (int(address, 16) for address in addresses.split("-"))
            found[range(first, last)] = Path(path).name
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", [BART, NLLB, T5, MARIAN], ids=lambda path: path.name)
def test_several_files_are_read_as_the_one_that_they_were_cut_from(tmp_path: Path, source: Path, name: str) -> None:
    directory = shard(source, tmp_path / "source", name)
    whole, parts = load(source), load(directory)
    assert parts.model.config == whole.model.config
    stored = whole.model.state_dict()
    for key, tensor in parts.model.state_dict().items():
        assert torch.equal(tensor, stored[key]), key
    assert parts.notes == whole.notes


@pytest.mark.parametrize("name", FORMATS)
def test_weights_stay_in_the_mapped_files(tmp_path: Path, name: str) -> None:
    directory = shard(T5, tmp_path / "source", name)
    model = load(directory).model
    mapped = mappings(directory)
    assert set(mapped.values()) == {FORMATS[name].format(number, 3) for number in (1, 2, 3)}
    for key, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in addresses for addresses in mapped), f"{key} is a copy"


def test_one_file_is_mapped_too(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(T5, tmp_path / "source"))
    model = load(directory).model
    for key, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in addresses for addresses in mappings(directory)), f"{key} is a copy"


@pytest.mark.parametrize("name", FORMATS)
def test_the_record_has_the_digest_of_every_file(tmp_path: Path, name: str) -> None:
    directory = shard(BART, tmp_path / "source", name)
    recorded = load(directory).provenance["source_files"]
    files = [f"{name}.index.json", *(FORMATS[name].format(number, 3) for number in (1, 2, 3))]
    for file in files:
        assert recorded[file] == hashlib.sha256((directory / file).read_bytes()).hexdigest()


def test_one_file_comes_before_several_and_safetensors_before_pickles(tmp_path: Path) -> None:
    directory = shard(BART, tmp_path / "source", "pytorch_model.bin")
    (directory / "pytorch_model-00001-of-00003.bin").write_bytes(b"damaged")
    assert "pytorch_model-00001-of-00003.bin: not a readable weights file" in refusal(directory)
    shutil.copytree(shard(BART, tmp_path / "other"), directory, dirs_exist_ok=True)
    assert "model.safetensors.index.json" in load(directory).provenance["source_files"]
    index_of(directory).write_text("{}")
    assert "weight_map is not an object of file names" in refusal(directory)
    shutil.copyfile(BART / "model.safetensors", directory / "model.safetensors")
    assert "model.safetensors" in load(directory).provenance["source_files"]


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_are_not_there_are_named(tmp_path: Path, name: str) -> None:
    directory = shard(BART, tmp_path / "source", name)
    second, third = (FORMATS[name].format(number, 3) for number in (2, 3))
    (directory / second).unlink()
    index = directory / f"{name}.index.json"
    assert refusal(directory) == f"{index}: names 3 files; not there: {second}"
    (directory / third).unlink()
    assert refusal(directory) == f"{index}: names 3 files; not there: {second}, {third}"


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path: Path) -> None:
    directory = shard(T5, tmp_path / "source")
    mapped = json.loads(index_of(directory).read_text())["weight_map"]
    remap(directory, **{"shared.weight": "model-00001-of-00003.safetensors"})
    there = directory / mapped["shared.weight"]
    if there.name == "model-00001-of-00003.safetensors":
        pytest.fail("the tensor was in that file already")
    assert refusal(directory) == (
        f"{directory}/model-00001-of-00003.safetensors: no shared.weight, which model.safetensors.index.json says "
        "is there"
    )
    remap(directory, **{"shared.weight": ...})
    assert refusal(directory) == (
        f"{there}: holds shared.weight, which model.safetensors.index.json does not say is there"
    )


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    directory = shard(T5, tmp_path / "source")
    mapped = json.loads(index_of(directory).read_text())["weight_map"]
    file = next(name for name in sorted(set(mapped.values())) if name != mapped["shared.weight"])
    tensors = load_file(directory / file)
    save_file({**tensors, "shared.weight": torch.zeros(2, 2)}, directory / file)
    assert refusal(directory) == (
        f"{directory}/{file}: holds shared.weight, which model.safetensors.index.json does not say is there"
    )


@pytest.mark.parametrize("file", [
    "../outside.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "./model-00001-of-00003.safetensors",
    "..", "", "sub\\model.safetensors", "C:model.safetensors", "model\n.safetensors", "\ud800.safetensors",
    "config.json", "pytorch_model.bin", "x" * 300 + ".safetensors",
])
def test_only_weights_files_beside_the_index_are_read(tmp_path: Path, file: str) -> None:
    directory = shard(T5, tmp_path / "source")
    (directory / "sub").mkdir()
    for other in (tmp_path / "outside.safetensors", directory / "sub" / "model.safetensors"):
        save_file({"shared.weight": torch.zeros(2)}, other)
    remap(directory, **{"shared.weight": file})
    assert refusal(directory).startswith(f"{index_of(directory)}: weight_map: ")
    assert refusal(directory).endswith(" is not the name of a .safetensors file beside it")


@pytest.mark.parametrize("content", [
    "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"shared.weight": 1}}', "{", '{"weight_map": NaN}'
])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    directory = shard(T5, tmp_path / "source")
    index_of(directory).write_text(content)
    assert refusal(directory).startswith(f"{index_of(directory)}: ")


def test_files_without_their_index_are_told_from_other_weights(tmp_path: Path) -> None:
    directory = shard(T5, tmp_path / "source")
    index_of(directory).unlink()
    assert refusal(directory) == (
        f"{directory}: model-00001-of-00003.safetensors is one of several files, whose index is missing (*.index.json)"
    )


def test_a_file_of_one_is_no_part_of_several(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(T5, tmp_path / "source"))
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    assert "model-00001-of-00001.safetensors" in load(directory).provenance["source_files"]


def test_a_git_lfs_pointer_in_place_of_one_file_is_named(tmp_path: Path) -> None:
    directory = shard(T5, tmp_path / "source")
    file = directory / "model-00002-of-00003.safetensors"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 4000000000\n")
    assert refusal(directory).startswith(f"{file}: a Git LFS pointer of")
    file.write_bytes((T5 / "model.safetensors").read_bytes()[:-8])
    assert refusal(directory).startswith(f"{file}: not a readable weights file")


def test_one_digest_of_several_files_is_refused(tmp_path: Path) -> None:
    directory = shard(T5, tmp_path / "source")
    file = choose_family(directory).weights(directory)
    with pytest.raises(ExportError) as caught:
        check_sha256(file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert str(caught.value) == (
        "--sha256: the weights are 3 files, named by model.safetensors.index.json, and one digest does not cover "
        "them; leave it out and compare source_files of the bundle's provenance"
    )
