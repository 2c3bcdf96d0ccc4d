// Activations to 8 bits, one scale a row, and products of such rows back to floats.
#include <math.h>

#include "kernels.h"
#include "vectors.h"

static inline integers level(floats values, floats scale) {
  return __builtin_convertvector(__builtin_elementwise_roundeven(values / scale), integers) + 128;
}

static void round_row(const float *values, uint8_t *rounded, float *scale, size_t width) {
  floats most = all(0), zero = all(0);
  size_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    floats v = load(values + i);
    most = __builtin_elementwise_max(most, __builtin_elementwise_abs(v));
    zero += v * 0;  // NaN where a value is not finite, which the maximum would pass over
  }
  float top = largest(most), odd = sum(zero);
  for (; i < width; i++) {
    top = fmaxf(top, fabsf(values[i]));
    odd += values[i] * 0;
  }
  // A row that holds no number must not come out as one.
  if (odd != 0) top = NAN;
  float each = top * (1.0f / 127);
  if (each < 1e-12f) each = 1e-12f;
  *scale = each;
  for (i = 0; i + LANES <= width; i += LANES) {
    integers levels = level(load(values + i), all(each));
    levels = __builtin_elementwise_min(__builtin_elementwise_max(levels, (integers){}), (integers){} + 255);
    *(bytes *)(rounded + i) = __builtin_convertvector(levels, bytes);
  }
  for (; i < width; i++) {
    float place = __builtin_elementwise_roundeven(values[i] / each) + 128;
    rounded[i] = place >= 255 ? 255 : place > 0 ? (uint8_t)place : 0;
  }
}

int KERNEL(row_quantize)(const void *given, size_t first, size_t last) {
  const RowQuantize *work = given;
  for (size_t row = first; row < last; row++)
    round_row(work->values + row * work->width, work->rounded + row * work->width, work->scales + row, work->width);
  return 1;
}

int KERNEL(scale_add)(const void *given, size_t first, size_t last) {
  const ScaleAdd *work = given;
  size_t width = work->width;
  for (size_t row = first; row < last; row++) {
    const float *product = work->product + row * width, scale = work->scales[row];
    const float *residual = work->residual ? work->residual + row * width : NULL;
    float *result = work->result + row * width;
    size_t i = 0;
    for (; i + LANES <= width; i += LANES) {
      floats v = load(product + i) * scale;
      if (work->bias) v += load(work->bias + i);
      if (residual) v += load(residual + i);
      store(result + i, v);
    }
    for (; i < width; i++) {
      float v = product[i] * scale;
      if (work->bias) v += work->bias[i];
      if (residual) v += residual[i];
      result[i] = v;
    }
  }
  return 1;
}
