// Retention of one decoder step. A row's bits depend on its own state alone: sums run over the keys' components in order.
#include "kernels.h"
#include "vectors.h"

// Some LANES columns of a state, a register of sums for each: the state is read and written once.
#define COLUMNS(count)                                                                       \
  for (; j + (count) * LANES <= columns; j += (count) * LANES) {                             \
    floats added[count], sums[count];                                                        \
    for (size_t n = 0; n < (count); n++) added[n] = load(value + j + n * LANES), sums[n] = all(0); \
    for (size_t i = 0; i < work->key_size; i++) {                                            \
      for (size_t n = 0; n < (count); n++) {                                                 \
        size_t at = i * columns + j + n * LANES;                                             \
        floats kept = load(state + at) * decay + added[n] * key[i];                          \
        store(after + at, kept);                                                             \
        sums[n] += kept * query[i];                                                          \
      }                                                                                      \
    }                                                                                        \
    for (size_t n = 0; n < (count); n++) store(result + j + n * LANES, sums[n]);             \
  }

int KERNEL(retain)(const void *given, size_t first, size_t last) {
  const Retain *work = given;
  size_t columns = work->value_size, size = work->key_size * columns;
  for (size_t task = first; task < last; task++) {
    const float *query = work->query + task * work->key_size, *key = work->key + task * work->key_size;
    const float *value = work->value + task * columns, *state = work->state + task * size;
    float *after = work->after + task * size, *result = work->result + task * columns;
    float decay = work->decay[task % work->heads];
    size_t j = 0;
    COLUMNS(4)
    COLUMNS(1)
    for (; j < columns; j++) {
      float total = 0;
      for (size_t i = 0; i < work->key_size; i++) {
        float kept = state[i * columns + j] * decay + value[j] * key[i];
        after[i * columns + j] = kept;
        total += kept * query[i];
      }
      result[j] = total;
    }
  }
  return 1;
}
