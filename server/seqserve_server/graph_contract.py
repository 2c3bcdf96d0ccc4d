"""What the engine and the graphs of a bundle agree on: the names and shapes of inputs and outputs."""

from collections.abc import Mapping, Sequence

import onnxruntime as ort

from seqserve.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, BundleError, ModelDescription, StateTensor
from seqserve_server.capacity import SINGLE
from seqserve_server.scorer import CHOICE, choosable_heads
from seqserve_server.scorer import INPUTS as SCORER_INPUTS
from seqserve_server.scorer import OUTPUTS as SCORER_OUTPUTS
from seqserve_server.source_inputs import SourceInputs, of_width

ENCODER_INPUTS = ("tokens", "positions", "lengths", "pad_index", "pack_index")
STEP_INPUTS = ("tokens", "positions", "target_extent", "source_extent", "candidates")
STEP_OUTPUTS = ("log_probs", "token_ids", "logits")
# Of graphs made for CUDA (docs/decisions/0015): row and place are as many, and who reads what is a permutation.
DEVICE_CONTROLS = ("tokens", "positions", "source_lengths", "readers", "back")
DEVICE_SCALARS = ("target_extent", "source_extent", "candidates")  # in host memory: a captured graph is fixed to them
NO_KEYS = "no_keys"  # an array without elements: cross-attention is given no new keys
STEPS = "steps"  # of an encoder with relative positions: 0 .. length-1


def check_contract(
    encoder: ort.InferenceSession, decoder: ort.InferenceSession, scorer: ort.InferenceSession | None,
    model: ModelDescription, widths: Sequence[int],
) -> None:
    """The graphs have just the inputs and outputs that ``model.json`` and this engine speak of.

    Raises:
        BundleError: naming the graph and what is missing or in excess.
    """
    states = [(state, f"{state.name}.{index}") for state in model.states for index in range(state.count)]
    inputs = {
        of_width(name, width): state
        for state, name in states for width in (widths if state.scope == "request" else SINGLE)
    }
    constant = {state.name for state in model.states if state.update == "constant"}  # nobody else writes those
    wanted = {
        ENCODER_FILE: (encoder, set(ENCODER_INPUTS), constant),
        DECODER_FILE: (
            decoder,
            {*STEP_INPUTS, *SourceInputs(widths, 1).inputs(1, [1] * len(widths)), *inputs},
            {*STEP_OUTPUTS, *(f"{name}.next" for state, name in states if state.update != "constant")},
        ),
    }
    for file, (session, names, outputs) in wanted.items():
        _check_names(file, session, names, outputs)
    if scorer is not None:
        taken = set(states_between(encoder, scorer, model))
        choice = set(CHOICE) if set(CHOICE) & {entry.name for entry in scorer.get_inputs()} else set()
        _check_names(SCORER_FILE, scorer, {*SCORER_INPUTS, *taken, *choice}, set(SCORER_OUTPUTS))
        if choice and model.alignment is not None:
            layers, heads = choosable_heads(scorer)
            if model.alignment.layers != layers or max(model.alignment.heads) >= heads:
                raise BundleError(f"{SCORER_FILE} has {layers} layers of {heads} heads, and not {model.alignment}")
    _check_shapes(decoder, inputs)


def states_between(
    encoder: ort.InferenceSession, scorer: ort.InferenceSession, model: ModelDescription
) -> list[str]:
    """Names of the states that the scorer takes as the encoder gives them."""
    given = {entry.name for entry in encoder.get_outputs()} & {entry.name for entry in scorer.get_inputs()}
    return [state.name for state in model.states if state.name in given]


def check_device_contract(
    encoder: ort.InferenceSession, decoder: ort.InferenceSession, model: ModelDescription
) -> None:
    """The same for graphs made for CUDA.

    Raises:
        BundleError: naming the graph and what is missing or in excess.
    """
    states = [(state, f"{state.name}.{index}") for state in model.states for index in range(state.count)]
    asked = {entry.name for entry in encoder.get_inputs()}
    _check_names(ENCODER_FILE, encoder, {*ENCODER_INPUTS, *({STEPS} & asked)}, set())
    _check_names(
        DECODER_FILE, decoder, {*DEVICE_CONTROLS, *DEVICE_SCALARS, NO_KEYS, *(name for _, name in states)},
        # The attention of a source writes to CUDA's, so that all of them are outputs.
        {*STEP_OUTPUTS, *(f"{name}.next" for _, name in states)},
        "; an fp16 bundle from before CUDA was served? Export the model again",
    )
    _check_shapes(decoder, {name: state for state, name in states})


def _check_shapes(decoder: ort.InferenceSession, inputs: Mapping[str, StateTensor]) -> None:
    shapes = {entry.name: entry.shape for entry in decoder.get_inputs()}
    for name, state in inputs.items():
        _, *sizes = shapes[name] or [None]
        if len(sizes) != len(state.shape) or any(
            isinstance(declared, int) and declared != size for declared, size in zip(state.shape, sizes, strict=True)
        ):
            raise BundleError(f"{DECODER_FILE}: {name} has shape {shapes[name]}, model.json says {state.shape}")


def _check_names(
    file: str, session: ort.InferenceSession, inputs: set[str], outputs: set[str], advice: str = ""
) -> None:
    actual = {entry.name for entry in session.get_inputs()}
    if actual != inputs:
        raise BundleError(f"{file}: inputs differ from model.json: {', '.join(sorted(actual ^ inputs))}{advice}")
    if missing := outputs - {entry.name for entry in session.get_outputs()}:
        raise BundleError(f"{file}: outputs are missing: {', '.join(sorted(missing))}{advice}")
