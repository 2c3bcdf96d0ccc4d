"""A bundle in another precision, measured against the float32 bundle that was proved: nothing about it is assumed."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from seqserve import bundle
from seqserve.bundle import ModelDescription
from seqserve_export.errors import ParityError
from seqserve_export.graphs.emulate import emulate
from seqserve_export.graphs.halve import LARGEST, halve
from seqserve_export.graphs.quantize import quantize
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.parity import BundleDecoder, Generated, Opener
from seqserve_export.precision_report import LogitErrors, PrecisionReport
from seqserve_export.proof_sources import ProofSource
from seqserve_export.text_scores import TextScores

GRAPHS = (bundle.ENCODER_FILE, bundle.DECODER_FILE)
ROUNDED = ("int8", "fp16")  # precisions that are made of float32 graphs
EMULATION = "emulation"  # the directory of float32 graphs that compute what the float16 ones mean
LOGIT_SOURCES = 32  # of the sources, for the errors of teacher-forced logits


def round_bundle(
    directory: Path, description: ModelDescription, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], min_agreement: float, open_bundle: Opener,
    progress: Callable[[str], None],
) -> PrecisionReport:
    """Replace the proved float32 graphs in ``directory``, and its ``model.json``, by rounded ones.

    Raises:
        ExportError: a weight that the precision cannot hold.
        ParityError: bits that depend on the batch, fewer equal tokens than ``min_agreement``, or an overflow.
    """
    work = directory / precision
    work.mkdir()
    write_rounded(directory, work, description, precision, progress)
    with open_bundle(directory, verify=False) as exact:
        measured = work if precision == "int8" else work / EMULATION
        if measured != work:
            (work / bundle.WEIGHTS_FILE).rename(measured / bundle.WEIGHTS_FILE)  # both graphs' weights are the same
        with open_bundle(measured, verify=False) as other:
            report = compare(
                exact, other, sources, precision=precision, max_new_tokens=max_new_tokens, arrivals=arrivals,
                min_agreement=min_agreement, progress=progress,
            )
        if measured != work:
            (measured / bundle.WEIGHTS_FILE).rename(work / bundle.WEIGHTS_FILE)
            with open_bundle(work, verify=False) as other:
                own = own_errors(exact, other, sources, precision, max_new_tokens)
            report = dataclasses.replace(report, own_largest=own.largest, own_mean=own.mean)
    report = dataclasses.replace(report, bytes_before=graph_bytes(directory), bytes_after=graph_bytes(work))
    if not report.passed:
        raise ParityError(f"the {precision} graphs miss the float32 ones; no bundle was written", report.table())
    for name in (*GRAPHS, bundle.WEIGHTS_FILE, bundle.MODEL_FILE):
        (work / name).replace(directory / name)
    shutil.rmtree(work)
    return report


def described(description: ModelDescription, precision: str) -> ModelDescription:
    """The description of the same model in another precision."""
    states = description.states
    if precision == "fp16":
        states = tuple(dataclasses.replace(state, dtype="float16") for state in states)
    return dataclasses.replace(description, precision=precision, states=states)


def write_rounded(
    directory: Path, work: Path, description: ModelDescription, precision: str, progress: Callable[[str], None]
) -> None:
    """Graphs, weights and ``model.json`` of a bundle in ``work``; for fp16 the graphs that emulate it, too."""
    weights = WeightsFile(work / bundle.WEIGHTS_FILE)
    emulation = work / EMULATION
    if precision == "fp16":
        emulation.mkdir()
        (emulation / bundle.MODEL_FILE).write_text(description.to_json(), encoding="utf-8")
    for name in GRAPHS:
        progress(f"rounding {name}")
        model = onnx_ir.load(directory / name)
        if precision == "int8":
            quantize(model)
            weights.save(model, work / name)
        else:
            halve(model)
            weights.save(model, work / name)
            emulate(model)
            weights.save(model, emulation / name)
        del model
    (work / bundle.MODEL_FILE).write_text(described(description, precision).to_json(), encoding="utf-8")


def compare(
    exact: BundleDecoder, rounded: BundleDecoder, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], min_agreement: float, progress: Callable[[str], None],
) -> PrecisionReport:
    """Decode all sources with both, and with ``rounded`` once more in mixed batches. Sizes are left at 0.

    Args:
        arrivals: The loop step at which each source joins the mixed batches.

    Raises:
        ParityError: a value of ``rounded`` is not finite.
    """
    ids = [source.ids for source in sources]
    prompts = [source.prompt for source in sources]
    expected = exact.generate(ids, prompts, max_new_tokens=max_new_tokens)
    errors = _logit_errors(exact, rounded, sources, expected, precision)
    alone: list[Generated] = []
    try:
        for number, source in enumerate(sources):
            alone += rounded.generate([source.ids], [source.prompt], max_new_tokens=max_new_tokens)
            progress(f"comparing: {number + 1} of {len(ids)} sources")
        mixed = rounded.generate(ids, prompts, max_new_tokens=max_new_tokens, arrivals=arrivals)
    except Exception as error:  # noqa: BLE001 - export does not know the engine's errors; values not finite, mostly
        raise ParityError(f"the {precision} graphs cannot decode: {str(error):.200}; no bundle was written") from error
    longer = sum(max(len(one.token_ids), len(other.token_ids)) for one, other in zip(expected, alone, strict=True))
    return PrecisionReport(
        precision=precision, sources=len(ids), bytes_before=0, bytes_after=0,
        logit_largest=errors.largest, logit_mean=errors.mean, logit_deviation=errors.deviation,
        tokens_equal=sum(map(_equal_tokens, expected, alone)) / longer if longer else 1.0,  # no token differs either
        sources_equal=sum(one.token_ids == other.token_ids for one, other in zip(expected, alone, strict=True)),
        mixed_equal=sum(map(_same_bits, alone, mixed)), min_agreement=min_agreement,
        texts=_compare_texts(exact, sources, expected, alone),
    )


def own_errors(
    exact: BundleDecoder, rounded: BundleDecoder, sources: Sequence[ProofSource], precision: str, max_new_tokens: int
) -> LogitErrors:
    """Of logits fed the exact bundle's tokens.

    Raises:
        ParityError: a logit is not finite.
    """
    sources = sources[:LOGIT_SOURCES]
    expected = exact.generate(
        [source.ids for source in sources], [source.prompt for source in sources], max_new_tokens=max_new_tokens
    )
    return _logit_errors(exact, rounded, sources, expected, precision)


def _logit_errors(
    exact: BundleDecoder, rounded: BundleDecoder, sources: Sequence[ProofSource], expected: Sequence[Generated],
    precision: str,
) -> LogitErrors:
    errors = LogitErrors()
    for number, (source, answer) in enumerate(list(zip(sources, expected, strict=True))[:LOGIT_SOURCES]):
        # Without tokens the first step is compared alone: the last target is never fed, so that any id does for it.
        fed = answer.token_ids or [0]
        logits = rounded.step_logits(source.ids, fed, source.prompt)
        if not np.isfinite(logits).all():
            why = f": a value went beyond {LARGEST:.0f}, where float16 ends" if precision == "fp16" else ""
            raise ParityError(f"--precision {precision}: logits of source {number} are not finite{why}; no bundle written")
        errors.add(exact.step_logits(source.ids, fed, source.prompt), logits)
    return errors


def _compare_texts(
    bundle: BundleDecoder, sources: Sequence[ProofSource], expected: Sequence[Generated], actual: Sequence[Generated]
) -> TextScores | None:
    """Of the sources that are sentences; random ids have no texts that mean anything."""
    places = [place for place, source in enumerate(sources) if source.is_sentence]
    if not places:
        return None
    return TextScores.of(*(
        [bundle.text(answers[place].token_ids) for place in places] for answers in (expected, actual)
    ))


def graph_bytes(directory: Path) -> int:
    """Of the graphs in a directory, with the weights beside them."""
    return sum((directory / name).stat().st_size for name in (*GRAPHS, bundle.WEIGHTS_FILE))


def _equal_tokens(one: Generated, other: Generated) -> int:
    return sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))


def _same_bits(one: Generated, other: Generated) -> bool:
    return one.token_ids == other.token_ids and one.log_probs == other.log_probs
