"""Worker: ``generate`` of transformers. In the peers' environment: ``python -m peers.huggingface MODEL``."""

import os
import sys

# Of AMX, which the processor reports, products in bfloat16 die here with an illegal instruction. Read when torch loads.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import torch
import transformers

from peers.generating import translating
from worker import closed_batches, serve
from workload import THREADS, Job


def main() -> int:
    """Load the model and answer commands."""
    job = Job.read()
    torch.set_num_threads(THREADS)
    torch.set_num_interop_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(job.subject, dtype=getattr(torch, job.precision)).eval()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    settings = f"batch as given, use_cache, attention {model.config._attn_implementation}, {THREADS} threads, "
    settings += f"instructions up to {os.environ['ONEDNN_MAX_CPU_ISA']}"
    return serve(f"Hugging Face {job.precision}", versions, settings, closed_batches(translating(model, job)))


if __name__ == "__main__":
    sys.exit(main())
