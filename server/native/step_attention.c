// Attention of one decoder step. A row's bits depend on its own keys alone: every sum runs over them in their order.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "vectors.h"

typedef float eight __attribute__((vector_size(32), aligned(4)));

// Head sizes are multiples of 8: sixteen at a time, and eight that may be left.
static float dot(const float *a, const float *b, size_t size) {
  floats total = all(0);
  size_t i = 0;
  for (; i + LANES <= size; i += LANES) total += load(a + i) * load(b + i);
  if (i < size) {
    eight rest = *(const eight *)(a + i) * *(const eight *)(b + i);
    total += __builtin_shufflevector(rest, (eight){}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  return sum(total);
}

static void weigh(const float *weights, const float *values, size_t length, size_t size, float total, float *result) {
  size_t i = 0;
  for (; i + 4 * LANES <= size; i += 4 * LANES) {  // the usual size of a head, in registers
    floats a = all(0), b = all(0), c = all(0), d = all(0);
    for (size_t k = 0; k < length; k++) {
      const float *v = values + k * size + i, w = weights[k];
      a += load(v) * w;
      b += load(v + LANES) * w;
      c += load(v + 2 * LANES) * w;
      d += load(v + 3 * LANES) * w;
    }
    store(result + i, a / total);
    store(result + i + LANES, b / total);
    store(result + i + 2 * LANES, c / total);
    store(result + i + 3 * LANES, d / total);
  }
  for (; i < size; i += 8) {
    eight a = {};
    for (size_t k = 0; k < length; k++) a += *(const eight *)(values + k * size + i) * weights[k];
    *(eight *)(result + i) = a / total;
  }
}

static void attend(const StepAttention *work, size_t row, size_t key_head, float *scores) {
  size_t size = work->size, shared = work->heads / work->key_heads, length = (size_t)work->last[row] + 1;
  size_t buffer = (row * work->key_heads + key_head) * work->capacity * size;
  float *keys = work->keys + buffer, *values = work->values + buffer;
  const float *queries = work->query + row * work->query_stride;
  if (work->append) {
    const float *key = queries + (work->heads + key_head) * size;
    memcpy(keys + (length - 1) * size, key, size * sizeof(float));
    memcpy(values + (length - 1) * size, key + work->key_heads * size, size * sizeof(float));
  }
  for (size_t head = key_head * shared; head < (key_head + 1) * shared; head++) {
    const float *bias = work->bias ? work->bias + (row * work->heads + head) * work->extent : NULL;
    for (size_t k = 0; k < length; k++) {
      float score = dot(queries + head * size, keys + k * size, size) * work->scale;
      scores[k] = bias ? score + bias[k] : score;
    }
    float total = exponentials(scores, length);
    weigh(scores, values, length, size, total, work->result + (row * work->heads + head) * size);
  }
}

// Ask for what the next task reads: its keys lie a buffer's capacity further, where no processor looks by itself.
static void prefetch(const StepAttention *work, size_t task) {
  size_t end = ((size_t)work->last[task / work->key_heads] + 1) * work->size;
  size_t buffer = task * work->capacity * work->size;
  for (size_t i = 0; i < end; i += LANES) {  // a cache line
    __builtin_prefetch(work->keys + buffer + i);
    __builtin_prefetch(work->values + buffer + i);
  }
}

int KERNEL(step_attention)(const void *given, size_t first, size_t last) {
  const StepAttention *work = given;
  float *scores = malloc((work->extent + LANES) * sizeof(float));
  if (!scores) return 0;
  for (size_t task = first; task < last; task++) {
    if (task + 1 < last) prefetch(work, task + 1);
    attend(work, task / work->key_heads, task % work->key_heads, scores);
  }
  free(scores);
  return 1;
}
