// Attention within each of several sources that lie one after the other, without padding.
#include <stdlib.h>

#include "kernels.h"
#include "vectors.h"

#define QUERIES 4  // at a time, so that a key is read once for all of them

// keys [length, size], ``stride`` floats apart -> [size, padded], zeros behind the last.
static void transpose(const float *keys, size_t stride, size_t length, size_t size, size_t padded, float *turned) {
  for (size_t d = 0; d < size; d++) {
    for (size_t k = 0; k < length; k++) turned[d * padded + k] = keys[k * stride + d];
    for (size_t k = length; k < padded; k++) turned[d * padded + k] = 0;
  }
}

static void score(const float *queries, size_t stride, size_t count, const float *turned, size_t size, size_t padded,
                  float scale, float *scores) {
  const float *q[QUERIES];
  for (size_t j = 0; j < QUERIES; j++) q[j] = queries + (j < count ? j : 0) * stride;
  for (size_t k = 0; k < padded; k += LANES) {
    floats a = all(0), b = all(0), c = all(0), d = all(0);
    for (size_t i = 0; i < size; i++) {
      floats key = load(turned + i * padded + k);
      a += key * q[0][i];
      b += key * q[1][i];
      c += key * q[2][i];
      d += key * q[3][i];
    }
    store(scores + k, a * scale);
    store(scores + padded + k, b * scale);
    store(scores + 2 * padded + k, c * scale);
    store(scores + 3 * padded + k, d * scale);
  }
}

// Sums over keys of weights [QUERIES, padded] times values, ``width`` of a head's numbers at a time.
static void weigh(const float *weights, size_t padded, const float *values, size_t stride, size_t length, size_t size,
                  const float *totals, float *result, size_t result_stride, size_t count) {
  size_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    floats each[QUERIES] = {};
    for (size_t k = 0; k < length; k++) {
      floats v = load(values + k * stride + i);
      for (size_t j = 0; j < QUERIES; j++) each[j] += v * weights[j * padded + k];
    }
    for (size_t j = 0; j < count; j++) store(result + j * result_stride + i, each[j] / totals[j]);
  }
  for (; i < size; i++) {
    for (size_t j = 0; j < count; j++) {
      float each = 0;
      for (size_t k = 0; k < length; k++) each += values[k * stride + i] * weights[j * padded + k];
      result[j * result_stride + i] = each / totals[j];
    }
  }
}

static void attend(const PackedAttention *work, size_t source, size_t head, float *turned, float *scores) {
  size_t size = work->size, inner = work->heads * size, stride = 3 * inner;
  size_t length = (size_t)(work->starts[source + 1] - work->starts[source]);
  size_t padded = (length + LANES - 1) / LANES * LANES;
  const float *queries = work->packed + (size_t)work->starts[source] * stride + head * size;
  float *result = work->result + (size_t)work->starts[source] * inner + head * size;
  transpose(queries + inner, stride, length, size, padded, turned);
  for (size_t q = 0; q < length; q += QUERIES) {
    size_t count = length - q < QUERIES ? length - q : QUERIES;
    float totals[QUERIES] = {1, 1, 1, 1};
    score(queries + q * stride, stride, count, turned, size, padded, work->scale, scores);
    for (size_t j = 0; j < count; j++) {
      const float *bias = work->bias ? work->bias + (head * work->padded + q + j) * work->padded : NULL;
      for (size_t k = 0; bias && k < length; k++) scores[j * padded + k] += bias[k];
      totals[j] = exponentials(scores + j * padded, length);
    }
    weigh(scores, padded, queries + 2 * inner, stride, length, size, totals, result + q * inner, inner, count);
  }
}

int KERNEL(packed_attention)(const void *given, size_t first, size_t last) {
  const PackedAttention *work = given;
  size_t longest = 0;
  for (size_t task = first; task < last; task++) {
    size_t source = task / work->heads, length = (size_t)(work->starts[source + 1] - work->starts[source]);
    if (length > longest) longest = length;
  }
  longest = (longest + LANES - 1) / LANES * LANES;
  float *scratch = malloc((work->size + QUERIES) * longest * sizeof(float));
  if (!scratch) return 0;
  for (size_t task = first; task < last; task++)
    attend(work, task / work->heads, task % work->heads, scratch, scratch + work->size * longest);
  free(scratch);
  return 1;
}
