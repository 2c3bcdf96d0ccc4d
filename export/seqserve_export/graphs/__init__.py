"""The two traced graphs: the encoder with every cross-attention projection, and one decoder step over caches."""
