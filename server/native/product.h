// Products of rows in 8 bits with a matrix in 8 bits, put back to floats: for processors with AVX-512 VNNI, or AMX.
#pragma once

#include <stddef.h>
#include <stdint.h>

// A matrix [depth, columns] as the instructions want it: blocks of 16 columns, each all of its depth, four numbers of a
// column side by side. Padded with zeros to a depth of 64 and 16 columns.
typedef struct Matrix {
  int8_t *packed;     // [blocks, padded_depth / 4, 16, 4]
  int32_t *offsets;   // [16 * blocks], 128 times each column's sum: rows are around 128
  float *scales;      // [16 * blocks]
  size_t depth, padded_depth, columns, blocks;
  struct Matrix *next;  // of all that are held
  size_t users;
} Matrix;

typedef struct {
  const Matrix *matrix;
  const uint8_t *rounded;  // [rows, depth]
  const float *scales;     // [rows]
  const float *bias;       // [columns], or NULL
  const float *residual;   // [rows, columns], or NULL
  float *result;           // [rows, columns]
  size_t rows;
} Product;

#define TASK_BLOCKS 2  // blocks of columns that one task computes

// Which instructions there are, found out once.
typedef enum { NO_PRODUCTS, VNNI, AMX } ProductLevel;
ProductLevel product_level(void);

// A matrix of ``weights`` [depth, columns], one for all who ask for the same: the scorer's are the decoder's. NULL: memory
// was short.
const Matrix *hold_matrix(const int8_t *weights, const float *scales, size_t depth, size_t columns);
void release_matrix(const Matrix *matrix);

int product_vnni(const void *work, size_t first, size_t last);
int product_amx(const void *work, size_t first, size_t last);
