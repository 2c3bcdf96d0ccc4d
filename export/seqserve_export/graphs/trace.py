"""Trace the graphs to ONNX. Opset and IR version are fixed here and nowhere else."""

import logging
import warnings

import onnx_ir
import torch
from torch import Tensor, nn

from seqserve_export.graphs import decoder, encoder, scorer
from seqserve_export.model import Transformer

OPSET = 20
IR_VERSION = 10

Dim = torch.export.Dim


def trace_encoder(model: Transformer) -> onnx_ir.Model:
    """The encoder graph with dynamic sizes tokens, batch and length."""
    graph = encoder.EncoderGraph(model).eval()
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
    return _export(graph, inputs, shapes, encoder.INPUTS, encoder.OUTPUTS)


def trace_decoder(model: Transformer) -> onnx_ir.Model:
    """The step graph with dynamic sizes rows, target and source capacity, and candidate count."""
    graph = decoder.DecoderGraph(model).eval()
    layers, heads, size = model.config.decoder_layers, model.config.heads, graph.head_size
    batch, capacity, source = 3, 24, 40

    def buffers(length: int) -> list[Tensor]:
        return [torch.zeros(batch, heads, length, size) for _ in range(2 * layers)]

    inputs = (
        torch.ones(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int32),
        torch.full((batch,), 6, dtype=torch.int32),
        torch.tensor(capacity, dtype=torch.int32),
        torch.tensor(source, dtype=torch.int32),
        torch.tensor([2], dtype=torch.int64),
        buffers(capacity),
        buffers(source),
    )
    rows, target_size, source_size = Dim("rows"), Dim("target_capacity"), Dim("source_capacity")
    shapes: tuple[object, ...] = (
        {0: rows}, {0: rows}, {0: rows}, {}, {}, {},
        [{0: rows, 2: target_size}] * (2 * layers), [{0: rows, 2: source_size}] * (2 * layers),
    )
    names = range(2 * layers)
    model_ir = _export(
        graph, inputs, shapes,
        (*decoder.CONTROLS, *(f"self.{n}" for n in names), *(f"cross.{n}" for n in names)),
        (*decoder.OUTPUTS, *(f"self.{n}.next" for n in names)),
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
