"""The architectures that graphs are traced for in tests, as changes of the tiny model."""

from typing import Any

# Together these take every branch of the graphs. Tracing costs seconds whatever the size, so there are few.
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm, head size 4": {"heads": 8, "head_size": 4, "shared_embeddings": True, "tied_output": True},
    "pre-norm, head size 20, learned positions": {
        "heads": 2, "head_size": 20, "norm_position": "pre", "final_norm": True, "positions": "learned",
        "position_offset": 2, "embedding_norm": True, "activation": "gelu", "target_vocab_size": 61,
        "output_bias": True, "encoder_layers": 1, "embedding_scale": 5.0,
    },
    "T5: RMS norm, relative positions, gated, no biases": {
        "norm": "rms", "norm_position": "pre", "final_norm": True, "norm_epsilon": 1e-6, "positions": "relative",
        "relative_buckets": 8, "relative_max_distance": 20, "gated_ffn": True, "activation": "gelu_tanh",
        "attention_bias": False, "ffn_bias": False, "attention_scale": 1.0, "shared_embeddings": True,
    },
}
# With tests of their own, for what they do otherwise.
ALONE: dict[str, dict[str, Any]] = {
    "retention": {  # heads of 6 are padded for cross-attention alone, and values fill no vector
        "decoder_mixing": "retention", "head_size": 6, "retention_value_size": 21, "norm_position": "pre",
        "final_norm": True, "encoder_layers": 1, "source_vocab_size": 200, "target_vocab_size": 200,
        "max_source_length": 96, "max_target_length": 96,
    },
}
