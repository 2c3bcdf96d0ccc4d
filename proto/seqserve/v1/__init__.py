"""Generated from ``seq2seq.proto`` by ``make protos``; committed, so that installing needs no compiler."""
