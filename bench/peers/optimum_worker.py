"""Worker: Optimum's ``ORTModelForSeq2SeqLM``. In its own environment: ``python -m peers.optimum_worker MODEL``."""

import sys
from importlib.metadata import version

import onnxruntime
import torch
import transformers
from optimum.onnxruntime import ORTModelForSeq2SeqLM

from peers.generating import translating
from worker import closed_batches, serve
from workload import THREADS, Job


def main() -> int:
    """Load the model and answer commands."""
    job = Job.read()
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    model = ORTModelForSeq2SeqLM.from_pretrained(job.subject, session_options=options)
    versions = {
        "optimum-onnx": version("optimum-onnx"), "onnxruntime": onnxruntime.__version__,
        "transformers": transformers.__version__,
    }
    settings = f"batch as given, use_cache, {THREADS} threads"
    return serve(f"Optimum {job.precision}", versions, settings, closed_batches(translating(model, job)))


if __name__ == "__main__":
    sys.exit(main())
