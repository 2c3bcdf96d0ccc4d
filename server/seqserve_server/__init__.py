"""Request to tokens: admission, scheduling, decoding and the gRPC service around them."""
