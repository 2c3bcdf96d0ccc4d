// Sixteen numbers at a time, in Clang's portable vectors: one AVX-512 register, two of AVX2, four of SSE or NEON.
//
// Every file that includes this is compiled once for each level of the processor and named apart by KERNEL. No
// multiplication and addition is contracted (-ffp-contract=off), so that all levels round alike.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define LANES 16
#define JOIN2(name, level) name##_##level
#define JOIN(name, level) JOIN2(name, level)
#define KERNEL(name) JOIN(name, LEVEL)

typedef float floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1)));

static inline floats load(const float *from) { return *(const floats *)from; }
static inline void store(float *to, floats values) { *(floats *)to = values; }
static inline floats all(float value) { return (floats){} + value; }

// In halves, always the same ones: a sum's rounding depends on its order.
static inline float sum(floats v) {
  typedef float eight __attribute__((vector_size(32)));
  typedef float four __attribute__((vector_size(16)));
  eight a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  four b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}

static inline float largest(floats v) { return __builtin_reduce_max(v); }

// e^x for x <= 0, within 2 units of the last place; 0 below -87. By x = n ln 2 + r with |r| <= ln 2 / 2, where ln 2 is
// taken in two parts, and the Taylor polynomial of degree 7 in r. NaN stays NaN.
static inline floats exponential(floats x) {
  floats bounded = __builtin_elementwise_max(x, all(-87.0f));
  floats n = __builtin_elementwise_roundeven(bounded * 1.44269504f);
  floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  floats p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  integers power = (__builtin_convertvector(n, integers) + 127) << 23;
  integers kept = ~(integers)(x < -87.0f);
  return (floats)((integers)(p * (floats)power) & kept);
}

// scores [LANES * n] become e^(score - largest), zeros behind ``length``; returns their sum.
static inline float exponentials(float *scores, size_t length) {
  size_t end = (length + LANES - 1) / LANES * LANES;
  for (size_t i = length; i < end; i++) scores[i] = -__builtin_inff();
  floats most = load(scores);
  for (size_t i = LANES; i < end; i += LANES) most = __builtin_elementwise_max(most, load(scores + i));
  floats top = all(largest(most)), total = all(0);
  for (size_t i = 0; i < end; i += LANES) {
    floats e = exponential(load(scores + i) - top);
    store(scores + i, e);
    total += e;
  }
  return sum(total);
}
