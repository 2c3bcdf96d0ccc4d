"""Which family a directory belongs to."""

from pathlib import Path

from seqserve_export.errors import ExportError
from seqserve_export.families import (
    argos,
    bahdanau,
    bart,
    ctranslate2,
    d2l,
    luong,
    marian,
    multilingual,
    native,
    retnet,
    t5,
    torch_transformer,
)
from seqserve_export.families.checkpoint import Family
from seqserve_export.families.files import CONFIG_FILE, SAFETENSORS_FILE, read_json

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "native", native.recognises, lambda directory, _: native.load(directory),
            weights=native.weights,
        ),
        Family("retnet", retnet.recognises, lambda directory, _: retnet.load(directory), weights=native.weights),
        Family("d2l", d2l.recognises, d2l.load, takes=("heads", "positions"), weights=d2l.weights),
        Family(
            bahdanau.NAME, bahdanau.recognises, bahdanau.load,
            takes=("max_source_length", "max_target_length", "pad_sources"), weights=bahdanau.weights,
        ),
        Family(luong.NAME, luong.recognises, lambda directory, _: luong.load(directory), weights=native.weights),
        Family(
            "torch", torch_transformer.recognises, lambda directory, _: torch_transformer.load(directory),
            weights=torch_transformer.weights,
        ),
        Family("marian", marian.recognises, lambda directory, _: marian.load(directory)),
        Family("bart", bart.recognises_bart, lambda directory, _: bart.load_bart(directory)),
        Family("mbart", multilingual.recognises_mbart, lambda directory, _: multilingual.load_mbart(directory)),
        Family("m2m100", multilingual.recognises_m2m100, lambda directory, _: multilingual.load_m2m100(directory)),
        Family("pegasus", bart.recognises_pegasus, lambda directory, _: bart.load_pegasus(directory)),
        Family(
            "ctranslate2", ctranslate2.recognises, lambda directory, _: ctranslate2.load(directory),
            weights=ctranslate2.weights,
        ),
        Family(
            "argos", argos.recognises, lambda source, _: argos.load(source), weights=argos.weights, reads_files=True
        ),
        Family("t5", t5.recognises, t5.load, takes=("max_source_length", "max_target_length")),
    )
}
AUTO = "auto"
SAVED_AS = (".pt", ".pth", ".params", ".ckpt", ".bin", ".safetensors")  # how names of weights end, of whatever library


def choose_family(directory: Path, name: str = AUTO) -> Family:
    """The family of a checkpoint directory: the one that ``name`` says, or with "auto" the one that recognises it.

    Some families read a single file too.

    Raises:
        ExportError: no directory, no model in it, an unknown architecture, or more than one family recognises it.
    """
    if name != AUTO and name not in FAMILIES:
        raise ExportError(f"--family {name}: not one of {AUTO}, {', '.join(FAMILIES)}")
    is_file = directory.is_file()
    if not is_file and not directory.is_dir():
        raise ExportError(f"{directory}: no such checkpoint directory")
    readers = {family.name: family for family in FAMILIES.values() if family.reads_files or not is_file}
    if name != AUTO:
        if name not in readers:
            raise ExportError(f"{directory}: a file; the family {name} reads directories")
        return FAMILIES[name]
    found = [family for family in readers.values() if family.recognises(directory)]
    if len(found) > 1:
        names = ", ".join(family.name for family in found)
        raise ExportError(f"{directory}: fits several families ({names}); choose one with --family")
    if not found and is_file:
        raise ExportError(f"{directory}: a file that no family reads; give its directory, or a package (*.argosmodel)")
    if not found:
        raise ExportError(_unknown(directory))
    return found[0]


def _unknown(directory: Path) -> str:
    """Why no family recognises the directory."""
    supported = f"supported families: {', '.join(FAMILIES)}"
    if (directory / CONFIG_FILE).is_file():
        config = read_json(directory / CONFIG_FILE)
        kind = config.get("model_type") or config.get("architectures")
        kind = ", ".join(map(str, kind)) if isinstance(kind, list) else kind
        if kind:
            return f"{directory}: architecture {kind!r:.80} is not supported; {supported}"
        return f"{directory}/{CONFIG_FILE}: names no known architecture; {supported}"
    below = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG_FILE}"))
    if len(below) > 1:
        return f"{directory}: several models below ({', '.join(below[:5])}); name one of these directories"
    hint = f"; did you mean {directory / below[0]}?" if below else _put_together(directory) or f"; {supported}"
    return f"{directory}: no model here (no {CONFIG_FILE}){hint}"


def _put_together(directory: Path) -> str:
    """What is missing beside weights that somebody saved by hand: no library says it, as it does for its own."""
    found = sorted(path.name for path in directory.iterdir() if path.suffix in SAVED_AS)
    if not found:
        return ""
    return (
        f". Beside {found[0]} it takes {CONFIG_FILE} or, for models of \"Dive into Deep Learning\" (d2l, bahdanau), "
        f"source_vocab.json and target_vocab.json, with the weights called {d2l.PICKLE_FILE} or {SAFETENSORS_FILE}; "
        "what each family reads is in docs/checkpoints.md"
    )
