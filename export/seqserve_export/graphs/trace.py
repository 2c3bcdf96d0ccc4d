"""Trace the graphs to ONNX. Opset and IR version are fixed here and nowhere else."""

import logging
import warnings

import onnx_ir
import torch
from torch import Tensor, nn

from seqserve_export.graphs import decoder, encoder, recurrent_decoder, recurrent_encoder, recurrent_scorer, scorer
from seqserve_export.graphs.recurrent_blocks import padded_key_width
from seqserve_export.model import RecurrentSeq2Seq, Transformer

OPSET = 20
IR_VERSION = 10

Dim = torch.export.Dim


def trace_encoder(model: Transformer) -> onnx_ir.Model:
    """The encoder graph with dynamic sizes tokens, batch and length."""
    return _export_encoder(encoder.EncoderGraph(model).eval(), encoder.OUTPUTS)


def trace_decoder(model: Transformer) -> onnx_ir.Model:
    """The step graph with dynamic sizes rows, target and source capacity, and candidate count."""
    graph = decoder.DecoderGraph(model).eval()
    layers, heads, size = model.config.decoder_layers, model.config.heads, graph.head_size
    batch, capacity, source = 3, 24, 40

    def buffers(length: int) -> list[Tensor]:
        return [torch.zeros(batch, heads, length, size) for _ in range(2 * layers)]

    rows, target_size, source_size = Dim("rows"), Dim("target_capacity"), Dim("source_capacity")
    if model.config.decoder_mixing == "retention":
        own = [torch.zeros(batch, heads, model.config.head_size, model.config.value_size) for _ in range(layers)]
        own_name, own_shape = decoder.RETENTION, {0: rows}
    else:
        own, own_name, own_shape = buffers(capacity), decoder.SELF, {0: rows, 2: target_size}

    inputs = (
        torch.ones(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int32),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.tensor(capacity, dtype=torch.int32),
        torch.tensor(source, dtype=torch.int32),
        torch.tensor([2], dtype=torch.int64),
        own,
        buffers(source),
    )
    shapes: tuple[object, ...] = (
        {0: rows}, {0: rows}, {0: rows}, {}, {}, {},
        [own_shape] * len(own), [{0: rows, 2: source_size}] * (2 * layers),
    )
    names = [f"{own_name}.{number}" for number in range(len(own))]
    model_ir = _export(
        graph, inputs, shapes,
        (*decoder.CONTROLS, *names, *(f"cross.{number}" for number in range(2 * layers))),
        (*decoder.OUTPUTS, *(f"{name}.next" for name in names)),
    )
    for value in model_ir.graph.outputs[:2]:
        value.shape = onnx_ir.Shape(["rows", "candidates"])
    return model_ir


def trace_scorer(model: Transformer, layer: int, heads: tuple[int, ...]) -> onnx_ir.Model:
    """The scorer graph with dynamic sizes: target and source tokens, batch, and both padded lengths."""
    graph = scorer.ScorerGraph(model, layer, heads).eval()
    batch, length, count, source, source_count = 3, 16, 20, 32, 40
    layers, size = model.config.decoder_layers, graph.head_size
    inputs = (
        torch.ones(count, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int32),
        torch.ones(count, dtype=torch.int64),
        torch.zeros(batch, length, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int64),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.zeros(batch, source, dtype=torch.int64),
        torch.zeros(2 * layers, model.config.heads, source_count, size),
        torch.tensor(True),
        torch.zeros(batch, layers, model.config.heads),
    )
    tokens, rows, places = Dim("tokens"), Dim("batch"), Dim("length")
    source_places, source_tokens = Dim("source_length"), Dim("source_tokens")
    shapes: tuple[object, ...] = (
        {0: tokens}, {0: tokens}, {0: tokens}, {0: rows, 1: places}, {0: tokens}, {0: rows},
        {0: rows, 1: source_places}, {2: source_tokens}, {}, {0: rows},
    )
    return _export(graph, inputs, shapes, scorer.INPUTS, scorer.OUTPUTS)


def trace_recurrent_encoder(model: RecurrentSeq2Seq) -> onnx_ir.Model:
    """The encoder graph with dynamic sizes tokens, batch and length."""
    graph = recurrent_encoder.RecurrentEncoderGraph(model).eval()
    return _export_encoder(graph, ("states", "hidden", "values", *(("keys",) if graph.keys is not None else ())))


def trace_recurrent_decoder(model: RecurrentSeq2Seq) -> onnx_ir.Model:
    """The step graph with dynamic sizes rows, source capacity, and candidate count."""
    graph = recurrent_decoder.RecurrentDecoderGraph(model).eval()
    config, batch, source = model.config, 3, 48
    own = [*(f"hidden.{number}" for number in range(config.decoder_layers)), *(["fed.0"] * config.input_feeding)]
    shared = {"values.0": config.hidden_width, "keys.0": padded_key_width(config)}
    if config.score == "dot":
        del shared["keys.0"]
    inputs = (
        torch.ones(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int32),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.tensor(24, dtype=torch.int32),
        torch.tensor(source, dtype=torch.int32),
        torch.tensor([2], dtype=torch.int64),
        [torch.zeros(batch, config.hidden_width) for _ in own],
        [torch.zeros(batch, source, width) for width in shared.values()],
    )
    rows = Dim("rows")
    held = {0: rows, 1: Dim("source_capacity")}
    shapes: tuple[object, ...] = (
        {0: rows}, {0: rows}, {0: rows}, {}, {}, {}, [{0: rows}] * len(own), [held] * len(shared)
    )
    model_ir = _export(
        graph, inputs, shapes, (*recurrent_decoder.CONTROLS, *own, *shared),
        (*recurrent_decoder.OUTPUTS, *(f"{name}.next" for name in own)),
    )
    for value in model_ir.graph.outputs[:2]:
        value.shape = onnx_ir.Shape(["rows", "candidates"])
    return model_ir


def trace_recurrent_scorer(model: RecurrentSeq2Seq) -> onnx_ir.Model:
    """The scorer graph with dynamic sizes: target and source tokens, batch, and both padded lengths."""
    graph = recurrent_scorer.RecurrentScorerGraph(model).eval()
    config, batch, length, count, source, source_count = model.config, 3, 16, 20, 32, 40
    shared = {"values": config.hidden_width, "keys": padded_key_width(config)}
    if config.score == "dot":
        del shared["keys"]
    inputs = (
        torch.ones(count, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int32),
        torch.ones(count, dtype=torch.int64),
        torch.zeros(batch, length, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int64),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.zeros(batch, source, dtype=torch.int64),
        torch.zeros(config.decoder_layers, batch, config.hidden_width),
        [torch.zeros(1, source_count, width) for width in shared.values()],
    )
    tokens, rows, places, source_tokens = Dim("tokens"), Dim("batch"), Dim("length"), Dim("source_tokens")
    shapes: tuple[object, ...] = (
        {0: tokens}, {0: tokens}, {0: tokens}, {0: rows, 1: places}, {0: tokens}, {0: rows},
        {0: rows, 1: Dim("source_length")}, {1: rows}, [{1: source_tokens}] * len(shared),
    )
    names = (*recurrent_scorer.INPUTS, "hidden", *shared)
    return _export(graph, inputs, shapes, names, recurrent_scorer.OUTPUTS)


def _export_encoder(graph: nn.Module, output_names: tuple[str, ...]) -> onnx_ir.Model:
    """Of packed sources, which every encoder reads."""
    batch, length, count = 3, 16, 20
    inputs = (
        torch.ones(count, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int32),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.zeros(batch, length, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int64),
    )
    tokens, rows, places = Dim("tokens"), Dim("batch"), Dim("length")
    shapes: tuple[object, ...] = ({0: tokens}, {0: tokens}, {0: rows}, {0: rows, 1: places}, {0: tokens})
    return _export(graph, inputs, shapes, encoder.INPUTS, output_names)


def _export(
    graph: nn.Module, inputs: tuple[object, ...], shapes: tuple[object, ...],
    input_names: tuple[str, ...], output_names: tuple[str, ...],
) -> onnx_ir.Model:
    for name in ("torch.onnx", "torch.__trace"):  # the second records every symbol where anything listens at DEBUG
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals, nothing the caller can act on
        program = torch.onnx.export(
            graph, inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False,
            input_names=list(input_names), output_names=list(output_names),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    model.ir_version = IR_VERSION
    _drop_notes(model)
    return model


def _drop_notes(model: onnx_ir.Model) -> None:
    """Remove what the exporter notes about the tracing: source lines and paths of the machine that exported."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
