"""A bundle in another precision, measured against the float32 bundle that was proved: nothing about it is assumed."""

import dataclasses
import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from seqserve import bundle
from seqserve.bundle import ModelDescription
from seqserve_export.errors import ParityError
from seqserve_export.graphs.device import for_device
from seqserve_export.graphs.emulate import emulate
from seqserve_export.graphs.halve import LARGEST, halve
from seqserve_export.graphs.places import without_places
from seqserve_export.graphs.quantize import quantize
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.parity import BundleDecoder, Generated, Opener
from seqserve_export.precision_report import LogitErrors, PrecisionReport
from seqserve_export.proof_sources import ProofSource
from seqserve_export.text_scores import TextScores

GRAPHS = (bundle.ENCODER_FILE, bundle.DECODER_FILE, bundle.SCORER_FILE)
TOKENIZER = Path(bundle.TOKENIZER_FILE).parent
ROUNDED = ("int8", "fp16")  # precisions that are made of float32 graphs
EMULATION = "emulation"  # the directory of float32 graphs that compute what the float16 ones mean
LOGIT_SOURCES = 32  # of the sources, for the errors of teacher-forced logits
KEPT_LOGITS = 2**26  # entries of theirs that are kept while no bundle is open: 268 MB


def round_bundle(
    directory: Path, description: ModelDescription, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], min_agreement: float, open_bundle: Opener,
    progress: Callable[[str], None],
) -> PrecisionReport:
    """Replace the proved float32 graphs in ``directory``, and its ``model.json``, by rounded ones.

    One bundle is open at a time: beside a large model, two are what the machine may not hold.

    Raises:
        ExportError: a weight that the precision cannot hold.
        ParityError: bits that depend on the batch, fewer equal tokens than ``min_agreement``, or an overflow.
    """
    work = directory / precision
    work.mkdir()
    write_rounded(directory, work, description, precision, progress)
    with open_bundle(directory, verify=False, scorer=False) as opened:
        exact = ExactAnswers.of(
            opened, sources, max_new_tokens=max_new_tokens, progress=progress,
            last=max(1, KEPT_LOGITS // LOGIT_SOURCES // description.target_vocab_size),
        )
    del opened
    gc.collect()  # an engine and its loop refer to each other, and hold the weights and the caches
    measured = work if precision == "int8" else work / EMULATION
    if measured != work:
        (work / bundle.WEIGHTS_FILE).rename(measured / bundle.WEIGHTS_FILE)  # both graphs' weights are the same
    with open_bundle(measured, verify=False, scorer=True) as opened:
        report = compare(
            exact, opened, sources, precision=precision, max_new_tokens=max_new_tokens, arrivals=arrivals,
            min_agreement=min_agreement, progress=progress,
        )
    if measured != work:
        (measured / bundle.WEIGHTS_FILE).rename(work / bundle.WEIGHTS_FILE)
        with open_bundle(work, verify=False, scorer=False) as opened:
            own = logit_errors(exact, opened, sources, precision)
        report = dataclasses.replace(report, own_largest=own.largest, own_mean=own.mean)
    report = dataclasses.replace(report, bytes_before=graph_bytes(directory), bytes_after=graph_bytes(work))
    if not report.passed:
        raise ParityError(f"the {precision} graphs miss the float32 ones; no bundle was written", report.table())
    for name in (*GRAPHS, bundle.WEIGHTS_FILE, bundle.MODEL_FILE):
        if (work / name).exists():
            (work / name).replace(directory / name)
        else:
            (directory / name).unlink(missing_ok=True)
    shutil.rmtree(work)
    return report


def described(description: ModelDescription, precision: str) -> ModelDescription:
    """The description of the same model in another precision."""
    states, alignment = description.states, description.alignment
    if precision == "fp16":  # without a scorer: no emulation of it was ever measured
        states, alignment = tuple(dataclasses.replace(state, dtype="float16") for state in states), None
    return dataclasses.replace(description, precision=precision, states=states, alignment=alignment)


def write_rounded(
    directory: Path, work: Path, description: ModelDescription, precision: str, progress: Callable[[str], None]
) -> None:
    """Graphs, weights and ``model.json`` of a bundle in ``work``; for fp16 the graphs that emulate it, too."""
    weights = WeightsFile(work / bundle.WEIGHTS_FILE)
    emulation = work / EMULATION
    if precision == "fp16":
        emulation.mkdir()
        emulated = dataclasses.replace(description, alignment=None)
        (emulation / bundle.MODEL_FILE).write_text(emulated.to_json(), encoding="utf-8")
    rounded = described(description, precision)
    for name in GRAPHS if rounded.alignment is not None else GRAPHS[:2]:
        progress(f"rounding {name}")
        model = onnx_ir.load(directory / name)
        if precision == "int8":
            quantize(model)
            weights.save(model, work / name)
        else:
            without_places(model)  # a branch is what no CUDA graph can hold
            halve(model)
            weights.save(for_device(model), work / name)
            emulate(model)
            weights.save(model, emulation / name)
        del model
        gc.collect()  # a graph's nodes and values refer to each other
    for made in (work, emulation):
        if made.is_dir() and (directory / TOKENIZER).is_dir():
            shutil.copytree(directory / TOKENIZER, made / TOKENIZER)
    (work / bundle.MODEL_FILE).write_text(rounded.to_json(), encoding="utf-8")


@dataclass(frozen=True)
class ExactAnswers:
    """What the float32 bundle says, to be compared with after it was closed.

    Attributes:
        answers: One per source.
        logits: [steps, target vocabulary] of the first sources, of the last steps fed their own tokens.
        texts: One per source that is a sentence, else None.
    """

    answers: list[Generated]
    logits: list[NDArray[np.float32]]
    texts: list[str | None]

    @classmethod
    def of(
        cls, opened: BundleDecoder, sources: Sequence[ProofSource], *, max_new_tokens: int, last: int,
        progress: Callable[[str], None],
    ) -> "ExactAnswers":
        """Decode all sources together: alone or not, float32 bits are the same, as was proved.

        Args:
            last: Steps of a source whose logits are kept.
        """
        progress("decoding in float32")
        answers = list(opened.generate(
            [source.ids for source in sources], [source.prompt for source in sources], max_new_tokens=max_new_tokens
        ))
        logits = [
            opened.step_logits(source.ids, fed_tokens(answer), source.prompt, last)
            for source, answer in list(zip(sources, answers, strict=True))[:LOGIT_SOURCES]
        ]
        return cls(answers, logits, _texts(opened, sources, answers))


def compare(
    exact: ExactAnswers, rounded: BundleDecoder, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], min_agreement: float, progress: Callable[[str], None],
) -> PrecisionReport:
    """Decode all sources with ``rounded`` alone and once more in mixed batches. Sizes are left at 0.

    Args:
        arrivals: The loop step at which each source joins the mixed batches.

    Raises:
        ParityError: a value of ``rounded`` is not finite.
    """
    ids = [source.ids for source in sources]
    errors = logit_errors(exact, rounded, sources, precision)
    alone: list[Generated] = []
    try:
        for number, source in enumerate(sources):
            alone += rounded.generate([source.ids], [source.prompt], max_new_tokens=max_new_tokens)
            progress(f"comparing: {number + 1} of {len(ids)} sources")
        mixed = rounded.generate(
            ids, [source.prompt for source in sources], max_new_tokens=max_new_tokens, arrivals=arrivals
        )
    except Exception as error:  # export does not know the engine's errors; values not finite, mostly
        raise ParityError(f"the {precision} graphs cannot decode: {error!s:.200}; no bundle was written") from error
    pairs = [(one.token_ids, other.token_ids) for one, other in zip(exact.answers, alone, strict=True)]
    longer = sum(max(len(one), len(other)) for one, other in pairs)
    equal = sum(map(_equal_tokens, exact.answers, alone))
    scores = score_errors(rounded, sources, alone) if rounded.can_score else None
    return PrecisionReport(
        precision=precision, sources=len(ids), bytes_before=0, bytes_after=0,
        logit_largest=errors.largest, logit_mean=errors.mean, logit_deviation=errors.deviation,
        tokens_equal=equal / longer if longer else 1.0,  # no token differs either
        sources_equal=sum(one == other for one, other in pairs),
        mixed_equal=sum(map(_same_bits, alone, mixed)), min_agreement=min_agreement,
        score_largest=None if scores is None else float(scores.max()),
        score_mean=None if scores is None else float(scores.mean()),
        texts=_compare_texts(exact.texts, _texts(rounded, sources, alone)),
    )


def score_errors(
    opened: BundleDecoder, sources: Sequence[ProofSource], answers: Sequence[Generated]
) -> NDArray[np.float32] | None:
    """[tokens]: how far the scorer is from what the same bundle's steps said of each token of its answers.

    None where no answer has a token. End tokens are left out: an answer says whether it ended, not by which token.
    """
    asked = [(source, answer) for source, answer in zip(sources, answers, strict=True) if answer.token_ids]
    if not asked:
        return None
    found = opened.score_targets(
        [source.ids for source, _ in asked], [answer.token_ids for _, answer in asked],
        [source.prompt for source, _ in asked],
    )
    stepped = [np.array(answer.log_probs[: len(answer.token_ids)], dtype=np.float32) for _, answer in asked]
    errors: NDArray[np.float32] = np.abs(np.concatenate(list(found)) - np.concatenate(stepped))
    return errors


def logit_errors(
    exact: ExactAnswers, rounded: BundleDecoder, sources: Sequence[ProofSource], precision: str
) -> LogitErrors:
    """Of logits fed the exact bundle's tokens.

    Raises:
        ParityError: a logit is not finite.
    """
    errors = LogitErrors()
    for number, expected in enumerate(exact.logits):
        source, fed = sources[number], fed_tokens(exact.answers[number])
        logits = rounded.step_logits(source.ids, fed, source.prompt, len(expected))
        if not np.isfinite(logits).all():
            why = f": a value went beyond {LARGEST:.0f}, where float16 ends" if precision == "fp16" else ""
            raise ParityError(
                f"--precision {precision}: logits of source {number} are not finite{why}; no bundle was written"
            )
        errors.add(expected, logits)
    return errors


def fed_tokens(answer: Generated) -> list[int]:
    """Of an answer without any, the first step is compared alone: the last is never fed, so that any id does for it."""
    return answer.token_ids or [0]


def _texts(
    opened: BundleDecoder, sources: Sequence[ProofSource], answers: Sequence[Generated]
) -> list[str | None]:
    """None for random ids, which have no texts that mean anything."""
    return [
        opened.text(answer.token_ids) if source.is_sentence else None
        for source, answer in zip(sources, answers, strict=True)
    ]


def _compare_texts(expected: Sequence[str | None], actual: Sequence[str | None]) -> TextScores | None:
    pairs = [(one, other) for one, other in zip(expected, actual, strict=True) if one is not None and other is not None]
    return TextScores.of([one for one, _ in pairs], [other for _, other in pairs]) if pairs else None


def graph_bytes(directory: Path) -> int:
    """Of the graphs in a directory, with the weights beside them."""
    paths = [directory / name for name in (*GRAPHS, bundle.WEIGHTS_FILE)]
    return sum(path.stat().st_size for path in paths if path.exists())


def _equal_tokens(one: Generated, other: Generated) -> int:
    return sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))


def _same_bits(one: Generated, other: Generated) -> bool:
    return one.token_ids == other.token_ids and one.log_probs == other.log_probs
