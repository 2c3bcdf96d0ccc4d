"""Worker: ``generate`` of transformers, float32. In the peers' environment: ``python -m peers.huggingface MODEL``."""

import sys

import torch
import transformers

from worker import Sources, closed_batches, serve
from workload import NEW_TOKENS, THREADS, complete


def main() -> int:
    """Load the model and answer commands."""
    torch.set_num_threads(THREADS)
    torch.set_num_interop_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.MarianMTModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()

    @torch.inference_mode()
    def translate(sources: Sources) -> Sources:
        ids = torch.tensor([complete(source) for source in sources])
        outputs = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, do_sample=False,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        )
        # The first column is the decoder's start token.
        return [row[1:] for row in outputs.tolist()]

    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    settings = f"batch as given, use_cache, attention {model.config._attn_implementation}, {THREADS} threads"
    return serve("Hugging Face generate", versions, settings, closed_batches(translate))


if __name__ == "__main__":
    sys.exit(main())
