"""Random models of one width, each by another way of reading what came before: for ``length_cost.py``.

Those with a bundle go through the exporter as checkpoints do, without the proof, which speed does not depend on. The
convolution is a graph of ONNX alone: no decoder of ours convolves.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from seqserve.bundle import MODEL_FILE
from seqserve.manifest import write_manifest
from seqserve_export import pipeline
from seqserve_export.description import describe
from seqserve_export.families import choose_family
from seqserve_export.families.native import save_native
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq, Transformer, TransformerConfig
from workload import SEED

WIDTH, HEADS, LAYERS, VOCABULARY = 256, 4, 2, 512
PAD, EOS, START = 0, 1, 2
CONVOLVED = 3  # the width k of the convolution
BUNDLE = "bundle"


def _transformer(directory: Path, longest: int, **changes: object) -> None:
    # The feed-forward layer is as narrow as the model: the usual four times would hide attention at most lengths.
    sizes = {
        "source_vocab_size": VOCABULARY, "target_vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS,
        "head_size": WIDTH // HEADS, "ffn_width": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
        "max_source_length": longest, "max_target_length": longest, "pad_id": PAD, "eos_id": EOS,
        "decoder_start_id": START, "norm_position": "pre", "final_norm": True,
    }
    save_native(Transformer(TransformerConfig.from_dict({**sizes, **changes})), directory)


def _retention(directory: Path, longest: int) -> None:
    _transformer(directory, longest, decoder_mixing="retention")


def _recurrent(directory: Path, longest: int) -> None:
    save_native(RecurrentSeq2Seq(RecurrentConfig(
        source_vocab_size=VOCABULARY, target_vocab_size=VOCABULARY, embedding_width=WIDTH, hidden_width=WIDTH,
        encoder_layers=LAYERS, decoder_layers=LAYERS, max_source_length=longest, max_target_length=longest,
        pad_id=PAD, eos_id=EOS, decoder_start_id=START, wiring="bahdanau", score="additive", attention_width=WIDTH,
    )), directory)


CHECKPOINTS: dict[str, Callable[[Path, int], None]] = {
    "transformer": _transformer, "retention": _retention, "recurrent": _recurrent,
}


def write_bundle(name: str, directory: Path, longest: int) -> Path:
    """The bundle of one of ``CHECKPOINTS``, below ``directory``; lengths up to ``longest`` on both sides."""
    source, bundle = directory / name, directory / name / BUNDLE
    bundle.mkdir(parents=True)
    torch.manual_seed(SEED)
    CHECKPOINTS[name](source, longest)
    checkpoint = choose_family(source).read(source)
    pipeline.write_graphs(checkpoint.model, bundle)
    description = dataclasses.replace(describe(checkpoint, name, "fp32"), alignment=None)
    (bundle / MODEL_FILE).write_text(description.to_json())
    write_manifest(bundle)
    return bundle


def write_convolution(path: Path, width: int = WIDTH, layers: int = LAYERS) -> Path:
    """Graph from ids [tokens] to states [1, width, tokens]: an embedding, convolutions of three tokens, and ReLU."""
    generator = np.random.default_rng(SEED)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        deviation = float(np.prod(shape[1:])) ** -0.5
        return numpy_helper.from_array(generator.normal(0, deviation, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["channels"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["channels", "first"], ["states.0"]),
    ]
    first = numpy_helper.from_array(np.array([0], dtype=np.int64), "first")
    initial = [weight("embedding", VOCABULARY, width), first]
    for layer in range(layers):
        initial += [weight(f"kernel.{layer}", width, width, CONVOLVED), weight(f"bias.{layer}", width)]
        inputs = [f"states.{layer}", f"kernel.{layer}", f"bias.{layer}"]
        beside = [CONVOLVED // 2, CONVOLVED // 2]
        nodes.append(helper.make_node("Conv", inputs, [f"sum.{layer}"], kernel_shape=[CONVOLVED], pads=beside))
        nodes.append(helper.make_node("Relu", [f"sum.{layer}"], [f"states.{layer + 1}"]))
    graph = helper.make_graph(
        nodes, "convolution", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info(f"states.{layers}", TensorProto.FLOAT, [1, width, "tokens"])], initial,
    )
    opset = [helper.make_opsetid("", 20)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path
