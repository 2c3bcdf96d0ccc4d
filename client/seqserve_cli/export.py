"""``seqserve export``: hands over to ``seqserve_export``, and lends it the server's runtime for the proof."""

import argparse
from functools import partial

# Beside a large model's weights there should not be the state of 64 rows of it: the proof then mixes fewer at a time.
PROOF_CACHE_BYTES = 2**29

DESCRIPTION = """\
Turn a checkpoint into a model bundle that `seqserve serve` loads: ONNX graphs, model.json, the tokenizer, and
parity.json, the proof that the graphs compute what the source model computes. Where the proof fails, nothing is left
behind and the exit code is 1.

Most checkpoints are taken as their library saves them. Models of "Dive into Deep Learning" (d2l, bahdanau) are put
together: the model's state dict as model.pt, and source_vocab.json and target_vocab.json, each a list of words in id
order. Recurrent models with attention as of Luong, and RetNets, are read in this project's own format, which
demo/luong-en-de and demo/retnet-en-de show. docs/checkpoints.md tells what every family reads.

examples:
  seqserve export demo/en-de bundle/
  seqserve export my-attention/ bundle/ --family bahdanau
  seqserve export opus-mt-en-de/ bundle/ --family marian --force"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from seqserve_export import command

    command.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from seqserve_export import command
    from seqserve_server.local import LocalModel

    return int(command.run(options, partial(LocalModel.open, cache_bytes=PROOF_CACHE_BYTES)))
