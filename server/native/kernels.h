// The work of each operator on plain memory: no runtime in it. Ranges of tasks are what threads share out.
#pragma once

#include <stddef.h>
#include <stdint.h>

// rows of floats -> 8 bits around 128 and a scale each: see export/seqserve_export/graphs/kernels.py.
typedef struct {
  const float *values;  // [rows, width]
  uint8_t *rounded;     // [rows, width]
  float *scales;        // [rows]
  size_t width;
} RowQuantize;

// product * scale + bias + residual.
typedef struct {
  const float *product;   // [rows, width]
  const float *scales;    // [rows]
  const float *bias;      // [width], or NULL
  const float *residual;  // [rows, width], or NULL
  float *result;          // [rows, width]
  size_t width;
} ScaleAdd;

// One query a row and head over the keys and values that lie in the row's buffer.
typedef struct {
  const float *query;             // [rows, heads * size], or with new keys and values behind each row's queries
  const float *bias;              // [rows, heads, extent], or NULL
  const int32_t *last;            // [rows], index of the last valid position
  float *keys, *values;           // [rows, key_heads, capacity, size]
  float *result;                  // [rows, heads * size]
  size_t heads, key_heads, size;  // size: a multiple of 8
  size_t capacity, extent;
  size_t query_stride;  // floats from one row's queries to the next's
  int append;           // whether new keys and values are written at ``last`` first
  float scale;
} StepAttention;

// All queries of a source over all of its keys; sources lie one after the other.
typedef struct {
  const float *packed;  // [tokens, 3 * heads * size]: queries, keys, values
  const float *bias;    // [heads, padded, padded], or NULL
  const int64_t *starts;  // [sources + 1]
  float *result;        // [tokens, heads * size]
  size_t heads, size, padded;
  float scale;
} PackedAttention;

// State of each row and head: faded, and key x value added; and what its query finds there.
typedef struct {
  const float *query, *key;  // [rows, heads, key_size]
  const float *value;        // [rows, heads, value_size]
  const float *state;        // [rows, heads, key_size, value_size]
  const float *decay;        // [heads]
  float *result;             // [rows, heads, value_size]
  float *after;              // as state
  size_t heads, key_size, value_size;
} Retain;

// Log-probabilities and ids of the ``count`` best of each row, best first, ties to the lower id.
typedef struct {
  const float *logits;  // [rows, vocabulary]
  float *log_probs;     // [rows, count]
  int64_t *ids;         // [rows, count]
  size_t vocabulary, count;
} TopCandidates;

// Each does tasks first .. last-1. A task is a row; of StepAttention, a row and key head; of Retain, a row and head;
// of PackedAttention, a source and head. False: memory was short.
typedef int (*Kernel)(const void *work, size_t first, size_t last);

typedef struct {
  Kernel row_quantize, scale_add, step_attention, packed_attention, retain, top_candidates;
} Kernels;

#define DECLARE(level)                                                        \
  int row_quantize_##level(const void *work, size_t first, size_t last);      \
  int scale_add_##level(const void *work, size_t first, size_t last);         \
  int step_attention_##level(const void *work, size_t first, size_t last);    \
  int packed_attention_##level(const void *work, size_t first, size_t last);  \
  int retain_##level(const void *work, size_t first, size_t last);            \
  int top_candidates_##level(const void *work, size_t first, size_t last);

DECLARE(v4)
DECLARE(v3)
DECLARE(plain)
