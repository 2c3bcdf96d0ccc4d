// The two kernels. Both sum integers, so that they agree to the bit with each other and with any other order.
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "product.h"

#define INLINE static inline __attribute__((always_inline))

// What turns sums of one block of columns into floats.
typedef struct {
  __m512i offsets;
  __m512 scales, bias;
  __mmask16 used;  // columns that the matrix has
  size_t column;
} Columns;

INLINE Columns columns_of(const Product *work, size_t block) {
  const Matrix *m = work->matrix;
  size_t column = block * 16, left = m->columns - column;
  Columns c = {_mm512_loadu_si512(m->offsets + column), _mm512_loadu_ps(m->scales + column), _mm512_setzero_ps(),
               left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1), column};
  if (work->bias) c.bias = _mm512_maskz_loadu_ps(c.used, work->bias + column);
  return c;
}

// Sixteen sums of one row to floats: the definition's order of operations (export/seqserve_export/graphs/kernels.py).
INLINE void finish(const Product *work, size_t row, const Columns *c, __m512i sums) {
  size_t place = row * work->matrix->columns + c->column;
  __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, c->offsets)), c->scales);
  v = _mm512_mul_ps(v, _mm512_set1_ps(work->scales[row]));
  if (work->bias) v = _mm512_add_ps(v, c->bias);
  if (work->residual) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(c->used, work->residual + place));
  _mm512_mask_storeu_ps(work->result + place, c->used, v);
}

#define MOST_HEIGHT 6
#define MOST_WIDTH 4  // 24 registers of sums; the others hold columns and a row's number

#define UNROLL _Pragma("unroll")

// ``height`` rows by ``width`` blocks of columns. The sums stay in registers if every index into them is a constant once
// loops are unrolled, and nothing between calls a function: else the compiler stores all of them at each ``k``, which takes
// twice as long (tests/test_kernel_products.py looks at the instructions).
INLINE void vnni_part(const Product *work, size_t row, const size_t height, size_t block, const size_t width) {
  const Matrix *m = work->matrix;
  const int8_t *columns = m->packed + block * 16 * m->padded_depth;
  const uint8_t *rows = work->rounded + row * m->depth;
  const size_t whole = m->depth / 4 * 4;
  __m512i sums[MOST_HEIGHT][MOST_WIDTH], weights[MOST_WIDTH];
  UNROLL for (size_t i = 0; i < height; i++)
    UNROLL for (size_t j = 0; j < width; j++) sums[i][j] = _mm512_setzero_si512();
  for (size_t k = 0; k < whole; k += 4) {
    UNROLL for (size_t j = 0; j < width; j++)
      weights[j] = _mm512_loadu_si512(columns + (j * m->padded_depth + k) * 16);
    UNROLL for (size_t i = 0; i < height; i++) {
      int32_t four;
      memcpy(&four, rows + i * m->depth + k, 4);
      __m512i values = _mm512_set1_epi32(four);
      UNROLL for (size_t j = 0; j < width; j++) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], values, weights[j]);
    }
  }
  if (whole < m->depth) {
    UNROLL for (size_t i = 0; i < height; i++) {
      uint32_t four = 0;  // no memcpy of a size that is not known here: it is a call
      for (size_t k = whole; k < m->depth; k++) four |= (uint32_t)rows[i * m->depth + k] << 8 * (k - whole);
      __m512i values = _mm512_set1_epi32((int32_t)four);
      UNROLL for (size_t j = 0; j < width; j++)
        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], values,
                                         _mm512_loadu_si512(columns + (j * m->padded_depth + whole) * 16));
    }
  }
  UNROLL for (size_t j = 0; j < width; j++) {
    const Columns c = columns_of(work, block + j);
    UNROLL for (size_t i = 0; i < height; i++) finish(work, row + i, &c, sums[i][j]);
  }
}

// All rows by ``width`` blocks: six at a time, and what is left at once.
INLINE void vnni_rows(const Product *work, size_t block, const size_t width) {
  size_t row = 0;
  for (; row + MOST_HEIGHT <= work->rows; row += MOST_HEIGHT) vnni_part(work, row, MOST_HEIGHT, block, width);
  switch (work->rows - row) {
    case 5: vnni_part(work, row, 5, block, width); break;
    case 4: vnni_part(work, row, 4, block, width); break;
    case 3: vnni_part(work, row, 3, block, width); break;
    case 2: vnni_part(work, row, 2, block, width); break;
    case 1: vnni_part(work, row, 1, block, width); break;
  }
}

int product_vnni(const void *given, size_t first, size_t last) {
  const Product *work = given;
  size_t block = first * TASK_BLOCKS, end = last * TASK_BLOCKS;
  if (end > work->matrix->blocks) end = work->matrix->blocks;
  for (; block + MOST_WIDTH <= end; block += MOST_WIDTH) vnni_rows(work, block, MOST_WIDTH);
  for (; block + 2 <= end; block += 2) vnni_rows(work, block, 2);
  for (; block < end; block++) vnni_rows(work, block, 1);
  return 1;
}

typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} __attribute__((aligned(64))) TileShapes;

// Tiles 0..3 hold sums, 4 and 5 rows, 6 and 7 columns.
INLINE void amx_part(const Product *work, size_t row, const uint8_t *upper, const uint8_t *lower, size_t stride,
                     size_t block, int two) {
  const Matrix *m = work->matrix;
  const int8_t *left = m->packed + block * 16 * m->padded_depth;
  const int8_t *right = two ? left + 16 * m->padded_depth : left;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t k = 0; k < m->padded_depth; k += 64) {
    _tile_loadd(4, upper + k, stride);
    _tile_loadd(6, left + k * 16, 64);
    _tile_loadd(7, right + k * 16, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    if (lower) {
      _tile_loadd(5, lower + k, stride);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  int32_t sums[4][16][16] __attribute__((aligned(64)));
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  if (lower) {
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
  }
  size_t count = work->rows - row < 32 ? work->rows - row : 32;
  for (int j = 0; j <= two; j++) {
    const Columns c = columns_of(work, block + (size_t)j);
    for (size_t i = 0; i < count; i++)
      finish(work, row + i, &c, _mm512_load_si512(sums[i / 16 * 2 + (size_t)j][i % 16]));
  }
}

// Rows that fill no tile, or no depth of 64, are copied to where zeros follow them.
static uint8_t *pad_rows(const Product *work, size_t from, size_t stride) {
  size_t depth = work->matrix->depth, tiles = (work->rows - from + 15) / 16;
  uint8_t *copy = calloc(tiles * 16 + 1, stride);
  for (size_t row = from; copy && row < work->rows; row++)
    memcpy(copy + (row - from) * stride, work->rounded + row * depth, depth);
  return copy;
}

int product_amx(const void *given, size_t first, size_t last) {
  const Product *work = given;
  const Matrix *m = work->matrix;
  size_t stride = m->padded_depth, direct = m->depth == stride ? work->rows / 16 * 16 : 0;
  uint8_t *copy = direct < work->rows ? pad_rows(work, direct, stride) : NULL;
  if (direct < work->rows && !copy) return 0;
  TileShapes before, shapes = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) {
    shapes.row_bytes[tile] = 64;
    shapes.rows[tile] = 16;
  }
  _tile_storeconfig(&before);  // another library's, on the same thread
  _tile_loadconfig(&shapes);
  for (size_t task = first; task < last; task++) {
    size_t block = task * TASK_BLOCKS;
    for (size_t row = 0; row < work->rows; row += 32) {
      size_t next = row + 16;
      const uint8_t *upper = row < direct ? work->rounded + row * stride : copy + (row - direct) * stride;
      const uint8_t *lower = next < direct ? work->rounded + next * stride : copy + (next - direct) * stride;
      amx_part(work, row, upper, next < work->rows ? lower : NULL, stride, block, block + 1 < m->blocks);
    }
  }
  _tile_loadconfig(&before);
  free(copy);
  return 1;
}
#endif
