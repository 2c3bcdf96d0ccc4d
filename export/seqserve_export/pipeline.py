"""Checkpoint to bundle: load, trace, write beside the target, prove, and only then give it its name."""

import contextlib
import dataclasses
import gc
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqserve import bundle
from seqserve.alignment import Alignment
from seqserve.bundle import BundleError, ModelDescription
from seqserve.manifest import MANIFEST_FILE, write_manifest
from seqserve_export import golden_cases, parity, precision, proof_sources
from seqserve_export.description import describe
from seqserve_export.errors import ExportError, ParityError
from seqserve_export.families import LoadedCheckpoint, choose_family
from seqserve_export.families.checkpoint import NOTHING_SAID, SourceOptions
from seqserve_export.families.files import check_sha256
from seqserve_export.families.registry import AUTO
from seqserve_export.graphs.forms import form_of
from seqserve_export.graphs.kernels import use_kernels
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.model import CanonicalModel
from seqserve_export.parity import Opener
from seqserve_export.parity_report import ParityReport
from seqserve_export.precision_report import PrecisionReport
from seqserve_export.tokenizer_files import TokenizerFiles

SUPPORTED_PRECISIONS = ("fp32", *precision.ROUNDED)
# Where greedy decoding stops in the proof. On random ids many models never end by themselves, and 200 sources decoded
# one by one cost the most of an export; a few long targets are teacher-forced besides (``proof_sources``).
PROOF_NEW_TOKENS = 16
PROOF_NEW_TOKENS_TEXT = 64
SMALL_PARAMETERS = 10_000_000

Progress = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the command line says."""

    source: Path
    out: Path
    family: str = AUTO
    precision: str = "fp32"
    name: str | None = None
    sentences: Path | None = None
    force: bool = False
    min_agreement: float = 0.0
    sha256: str | None = None  # of the weights file, in hexadecimal
    scorer: bool = True
    checkpoint: SourceOptions = NOTHING_SAID


@dataclass(frozen=True)
class Exported:
    """A finished export. ``notes`` say what the source does that the bundle does not, one line each.

    ``report`` is of the float32 graphs, ``rounded`` of what another precision made of them.
    """

    description: ModelDescription
    report: ParityReport
    rounded: PrecisionReport | None
    notes: tuple[str, ...]


def export_bundle(options: ExportOptions, open_bundle: Opener, progress: Progress = lambda _: None) -> Exported:
    """Export one checkpoint.

    Args:
        open_bundle: Opens the unfinished bundle for the proof; the server's engine, handed in by the command line.
        progress: Told what is being done, a few words at a time.

    Raises:
        ExportError: one line; there is then no bundle at ``options.out`` (an older one, with ``force``, is kept).
        ParityError: the same, because the graphs miss the model.
    """
    check_options(options)
    progress("loading the checkpoint")
    checkpoint = _load(options)
    check_precision(checkpoint, options.precision)
    try:
        description = describe(checkpoint, options.name or _default_name(options.source), "fp32")
        if not options.scorer or options.precision == "fp16":  # which has none in the end
            description = dataclasses.replace(description, alignment=None)
    except BundleError as error:  # what a family's own checks let through
        raise ExportError(f"{options.source}: cannot become a bundle: {error}") from error
    if options.sentences is None:
        sources, longest = proof_sources.random_sources(description, proof_sources.COUNT), PROOF_NEW_TOKENS
    else:
        sources = proof_sources.sentence_sources(description, checkpoint.tokenizer, options.sentences)
        longest = PROOF_NEW_TOKENS_TEXT
    try:
        with _unfinished(options.out) as directory:
            write_graphs(
                checkpoint.model, directory, description.alignment, progress, kernels=options.precision != "fp16"
            )
            _write_descriptions(directory, description, checkpoint.tokenizer)
            report = _prove(checkpoint.model, description, directory, sources, longest, open_bundle, progress)
            notes = checkpoint.all_notes
            del checkpoint  # the source's weights need no longer be mapped
            rounded = None
            if options.precision != "fp32":
                rounded = precision.round_bundle(
                    directory, description, sources, precision=options.precision,
                    max_new_tokens=min(longest, description.max_new_tokens),
                    arrivals=proof_sources.arrivals(len(sources)), min_agreement=options.min_agreement,
                    open_bundle=open_bundle, progress=progress,
                )
            _write_reports(directory, report, rounded)
            progress("keeping answers")
            golden_cases.write_cases(directory, description, sources, open_bundle)
            progress("writing the manifest")
            write_manifest(directory)
            _publish(directory, options.out)
    except OSError as error:
        raise ExportError(f"{options.out}: cannot be written: {error.strerror or error}") from error
    except BundleError as error:
        raise ExportError(f"the exported bundle does not open: {error}") from error
    return Exported(precision.described(description, options.precision), report, rounded, notes)


def _load(options: ExportOptions) -> LoadedCheckpoint:
    try:
        family = choose_family(options.source, options.family)
        if options.sha256 is not None:
            check_sha256(family.weights(options.source), options.sha256)
        return family.read(options.source, options.checkpoint)
    except OSError as error:  # of a file or directory that is there and may not be read, mostly
        raise ExportError(f"{error.filename or options.source}: cannot be read: {error.strerror or error}") from error


def _write_reports(directory: Path, report: ParityReport, rounded: PrecisionReport | None) -> None:
    values = dataclasses.asdict(report)
    if rounded is not None:
        values[rounded.precision] = dataclasses.asdict(rounded)
    (directory / bundle.PARITY_FILE).write_text(_json(values), encoding="utf-8")


def check_options(options: ExportOptions) -> None:
    """Refuse what cannot work before any work is done."""
    if options.precision not in SUPPORTED_PRECISIONS:
        raise ExportError(f"--precision {options.precision}: unknown; supported: {', '.join(SUPPORTED_PRECISIONS)}")
    if not 0 <= options.min_agreement <= 1:
        raise ExportError(f"--min-agreement {options.min_agreement}: not in 0..1")
    if options.min_agreement and options.precision == "fp32":
        raise ExportError("--min-agreement: means nothing for fp32, whose tokens have to agree in any case")
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise ExportError(f"--name {options.name!r}: letters, digits, '.', '_' and '-' only")
    if options.sha256 is not None and not _SHA256.fullmatch(options.sha256):
        raise ExportError(f"--sha256 {options.sha256:.80}: not 64 hexadecimal digits")
    out = options.out
    if not os.path.lexists(out):
        return
    if not options.force:
        raise ExportError(f"{out}: exists already; --force replaces it")
    if out.is_symlink() or not out.is_dir() or not ((out / MANIFEST_FILE).is_file() or not any(out.iterdir())):
        raise ExportError(f"{out}: is not a bundle; --force replaces bundles and empty directories only")
    if options.source.resolve().is_relative_to(out.resolve()):
        raise ExportError(f"{out}: holds the source {options.source}; it cannot be replaced")


def check_precision(checkpoint: LoadedCheckpoint, wanted: str) -> None:
    """Refuse a precision that there are no rules for in the graphs of such a model."""
    if wanted not in (known := form_of(checkpoint.model).precisions()):
        raise ExportError(
            f"--precision {wanted}: the family {checkpoint.family} is there in {' and '.join(known)} only"
        )


def write_graphs(
    model: CanonicalModel, directory: Path, alignment: Alignment | None = None, progress: Progress = lambda _: None,
    *, kernels: bool = True,
) -> None:
    """Trace and save the graphs, one after the other, so that only one copy of the weights is held at a time.

    Args:
        alignment: None for no scorer.
        kernels: Whether to use operators of our own, which are for the CPU.
    """
    weights = WeightsFile(directory / bundle.WEIGHTS_FILE)
    progress("tracing the encoder")
    form = form_of(model)
    encoder = form.encoder()
    if kernels:
        use_kernels(encoder)
    weights.save(encoder, directory / bundle.ENCODER_FILE)
    del encoder
    progress("tracing the decoder step")
    decoder = form.step()
    if kernels:
        use_kernels(decoder)
    weights.save(decoder, directory / bundle.DECODER_FILE)
    if alignment is not None:
        del decoder
        progress("tracing the scorer")
        weights.save(form.scorer(alignment), directory / bundle.SCORER_FILE)


def _write_descriptions(directory: Path, description: ModelDescription, tokenizer: TokenizerFiles | None) -> None:
    (directory / bundle.MODEL_FILE).write_text(description.to_json(), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.write(directory)


def _prove(
    model: CanonicalModel, description: ModelDescription, directory: Path, sources: list[proof_sources.ProofSource],
    max_new_tokens: int, open_bundle: Opener, progress: Progress,
) -> ParityReport:
    """The report of a bundle that passed. The scorer is opened by itself: beside all else it would raise the peak."""
    with _reference_threads(model), open_bundle(directory, verify=False, scorer=False) as opened:
        proof = parity.prove(
            model, opened, sources,
            max_new_tokens=min(max_new_tokens, description.max_new_tokens), forced_end=description.forced_end,
            arrivals=proof_sources.arrivals(len(sources)),
            progress=lambda done: progress(f"proving: {done} of {len(sources)} sources"),
        )
    report = proof.report
    del opened
    gc.collect()  # an engine and its loop refer to each other, and hold the weights and the caches
    if description.alignment is not None:
        with open_bundle(directory, verify=False, scorer=True) as opened:
            report = proof.with_scores(opened, sources)
    if not report.passed:
        raise ParityError("the exported graphs miss the source model; no bundle was written", report.table())
    return report


@contextlib.contextmanager
def _reference_threads(model: CanonicalModel) -> Iterator[None]:
    """One PyTorch thread for small models: theirs wait for one another, and for the engine's, longer than they work."""
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A new directory beside ``out``, removed on the way out unless it was renamed; new parents likewise on failure.

    Beside, because a rename is atomic only within one file system. Not from ``tempfile``: its directories are closed
    to other users, and the bundle keeps the mode of this one.
    """
    parent = out.absolute().parent
    made = [directory for directory in (parent, *parent.parents) if not directory.exists()]
    directory = parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir()
        yield directory
    except BaseException:  # Ctrl-C too
        shutil.rmtree(directory, ignore_errors=True)
        for created in made:
            with contextlib.suppress(OSError):
                created.rmdir()
        raise


def _publish(directory: Path, out: Path) -> None:
    """Rename to the final name; an older bundle steps aside first and is removed last."""
    aside = directory.with_suffix(".old")
    replaced = os.path.lexists(out)
    if replaced:
        out.rename(aside)
    try:
        directory.rename(out)
    except BaseException:
        if replaced:
            aside.rename(out)
        raise
    if replaced:
        shutil.rmtree(aside, ignore_errors=True)


def _default_name(source: Path) -> str:
    """The source's name, without a file's suffix, in the characters that model names may have."""
    path = source.resolve()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if path.is_file() else path.name).strip("-._")
    return name or "model"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
