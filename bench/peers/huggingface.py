"""Worker: ``generate`` of transformers. In the peers' environment: ``python -m peers.huggingface MODEL``."""

import os
import sys

# Of AMX, which the processor reports, products in bfloat16 die here with an illegal instruction. Read when torch loads.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import torch
import transformers

from worker import Sources, closed_batches, serve
from workload import NEW_TOKENS, THREADS, Job, complete


def main() -> int:
    """Load the model and answer commands."""
    job = Job.read()
    torch.set_num_threads(THREADS)
    torch.set_num_interop_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.MarianMTModel.from_pretrained(job.subject, dtype=getattr(torch, job.precision)).eval()

    @torch.inference_mode()
    def translate(sources: Sources) -> Sources:
        ids = torch.tensor([complete(source) for source in sources])
        outputs = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=job.beam_size, do_sample=False,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        )
        # The first column is the decoder's start token.
        return [row[1:] for row in outputs.tolist()]

    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    settings = f"batch as given, use_cache, attention {model.config._attn_implementation}, {THREADS} threads, "
    settings += f"instructions up to {os.environ['ONEDNN_MAX_CPU_ISA']}"
    return serve(f"Hugging Face {job.precision}", versions, settings, closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
