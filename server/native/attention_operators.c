// The attentions of a decoder step and of packed sources, and retention.
#include <stdlib.h>
#include <string.h>

#include "tensors.h"

typedef struct {
  int64_t heads, key_heads;
  float scale;
} Attributes;

// Queries, keys, values and lengths of both kinds of step attention.
static Status *step_attention(const Attributes *given, Context *context, int append, int biased) {
  Tensor query, keys, values, last, bias = {0};
  TRY(input(context, 0, &query));
  TRY(input(context, 1, &keys));
  TRY(input(context, 2, &values));
  TRY(input(context, 3, &last));
  if (biased) TRY(input(context, 5, &bias));
  size_t rows = (size_t)query.sizes[0], heads = (size_t)given->heads, key_heads = (size_t)given->key_heads;
  size_t size = (size_t)keys.sizes[3], capacity = (size_t)keys.sizes[2];
  size_t stride = (heads + (append ? 2 * key_heads : 0)) * size;
  if (!has_sizes(&query, 3, rows, 1, stride, 0) || !has_sizes(&keys, 4, rows, key_heads, capacity, size) ||
      !has_sizes(&values, 4, rows, key_heads, capacity, size) || !has_sizes(&last, 1, rows, 0, 0, 0) ||
      (biased && !has_sizes(&bias, 4, rows, heads, 1, ANY)) || size % 8 || heads % key_heads)
    return fail("attention: shapes do not fit");
  const int32_t *ends = last.data;
  size_t longest = 0;
  for (size_t row = 0; row < rows; row++) {
    if (ends[row] < 0 || (size_t)ends[row] >= capacity) return fail("attention: a position beyond the buffer");
    if ((size_t)ends[row] >= longest) longest = (size_t)ends[row] + 1;
  }
  size_t extent = bias.data ? (size_t)bias.sizes[3] : longest;
  if (extent < longest) return fail("attention: a position beyond the bias");
  StepAttention work = {query.data, bias.data, ends,   keys.data, values.data, NULL,   heads,
                        key_heads,  size,      capacity, extent,  stride,      append, given->scale};
  TRY(output(context, 0, (int64_t[]){(int64_t)rows, 1, (int64_t)(heads * size)}, 3, &work.result));
  if (append) {
    size_t bytes = rows * key_heads * capacity * size * sizeof(float);
    TRY(output(context, 1, keys.sizes, 4, &work.keys));
    TRY(output(context, 2, values.sizes, 4, &work.values));
    // The same memory when bound as input and output at once, as the engine does.
    if (work.keys != keys.data) memcpy(work.keys, keys.data, bytes);
    if (work.values != values.data) memcpy(work.values, values.data, bytes);
  }
  return run(context, kernels.step_attention, &work, rows * key_heads, 2 * longest * size);
}

Status *self_attention(void *given, Context *context) { return step_attention(given, context, 1, 0); }
Status *biased_self_attention(void *given, Context *context) { return step_attention(given, context, 1, 1); }
Status *cross_attention(void *given, Context *context) { return step_attention(given, context, 0, 0); }

Status *retain(void *unused, Context *context) {
  (void)unused;
  Tensor query, key, value, state, decay;
  TRY(input(context, 0, &query));
  TRY(input(context, 1, &key));
  TRY(input(context, 2, &value));
  TRY(input(context, 3, &state));
  TRY(input(context, 4, &decay));
  if (state.rank != 4) return fail("retention: shapes do not fit");
  size_t rows = (size_t)state.sizes[0], heads = (size_t)state.sizes[1];
  size_t key_size = (size_t)state.sizes[2], value_size = (size_t)state.sizes[3];
  if (!has_sizes(&query, 3, rows, heads, key_size, 0) || !has_sizes(&key, 3, rows, heads, key_size, 0) ||
      !has_sizes(&value, 3, rows, heads, value_size, 0) || !has_sizes(&decay, 3, heads, 1, 1, 0))
    return fail("retention: shapes do not fit");
  Retain work = {query.data, key.data, value.data, state.data, decay.data, NULL, NULL, heads, key_size, value_size};
  TRY(output(context, 0, value.sizes, 3, &work.result));
  TRY(output(context, 1, state.sizes, 4, &work.after));
  return run(context, kernels.retain, &work, rows * heads, 2 * key_size * value_size);
}

// Inputs 2 and 3 say how to pad and pack, which nothing here does.
static Status *attend_packed(const Attributes *given, Context *context, int biased) {
  Tensor packed, lengths, bias = {0};
  TRY(input(context, 0, &packed));
  TRY(input(context, 1, &lengths));
  if (biased) TRY(input(context, 4, &bias));
  size_t heads = (size_t)given->heads, sources = (size_t)lengths.sizes[0];
  size_t padded = biased ? (size_t)bias.sizes[3] : 0;
  if (packed.rank != 2 || lengths.rank != 1 || packed.sizes[1] % (3 * given->heads) ||
      (biased && !has_sizes(&bias, 4, 1, heads, padded, padded)))
    return fail("packed attention: shapes do not fit");
  int64_t *starts = malloc((sources + 1) * sizeof(int64_t));
  if (!starts) return fail("out of memory");
  size_t longest = 0;
  int odd = 0;
  starts[0] = 0;
  for (size_t i = 0; i < sources; i++) {
    int32_t length = ((const int32_t *)lengths.data)[i];
    odd |= length < 0;
    starts[i + 1] = starts[i] + length;
    if (length > 0 && (size_t)length > longest) longest = (size_t)length;
  }
  size_t inner = (size_t)packed.sizes[1] / 3, cost = longest * (longest + 4 * inner / heads);
  Status *problem = NULL;
  PackedAttention work = {packed.data, bias.data, starts, NULL, heads, inner / heads, padded, given->scale};
  if (odd || starts[sources] != packed.sizes[0] || (biased && longest > padded))
    problem = fail("packed attention: lengths do not fit");
  if (!problem) problem = output(context, 0, (int64_t[]){packed.sizes[0], (int64_t)inner}, 2, &work.result);
  if (!problem) problem = run(context, kernels.packed_attention, &work, sources * heads, cost);
  free(starts);
  return problem;
}

Status *packed_attention(void *given, Context *context) { return attend_packed(given, context, 0); }
Status *biased_packed_attention(void *given, Context *context) { return attend_packed(given, context, 1); }

static Status *create_attention(const Info *info, int has_key_heads, void **kernel) {
  Attributes *made = malloc(sizeof *made);
  if (!made) return fail("out of memory");
  Status *problem = INFO_INTEGER(info, "num_heads", &made->heads);
  if (!problem) made->key_heads = made->heads;
  if (!problem && has_key_heads) problem = INFO_INTEGER(info, "kv_num_heads", &made->key_heads);
  if (!problem) problem = INFO_FLOAT(info, "scale", &made->scale);
  if (!problem && (made->heads < 1 || made->key_heads < 1)) problem = fail("attention: no heads");
  if (problem) free(made);
  else *kernel = made;
  return problem;
}

Status *create_step(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused;
  return create_attention(info, 1, kernel);
}

Status *create_packed(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused;
  return create_attention(info, 0, kernel);
}
