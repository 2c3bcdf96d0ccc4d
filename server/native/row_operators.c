// Operators of which each row of the result depends on one row.
#include <stdlib.h>

#include "tensors.h"

Status *row_quantize(void *unused, Context *context) {
  (void)unused;
  Tensor values;
  TRY(input(context, 0, &values));
  if (!values.rank) return fail("RowQuantize: a scalar has no rows");
  RowQuantize work = {values.data, NULL, NULL, (size_t)values.sizes[values.rank - 1]};
  TRY(output(context, 0, values.sizes, values.rank, &work.rounded));
  size_t rows = rows_of(&values);
  values.sizes[values.rank - 1] = 1;
  TRY(output(context, 1, values.sizes, values.rank, &work.scales));
  return run(context, kernels.row_quantize, &work, rows, 2 * work.width);
}

// Whether a tensor is so many rows of one width, however they are arranged.
static int fits(const Tensor *tensor, size_t rows, size_t width) {
  return tensor->rank && rows_of(tensor) == rows && (size_t)tensor->sizes[tensor->rank - 1] == width;
}

// A bias, a residual or both come behind product and scales.
static Status *scale(Context *context, int has_bias, int has_residual) {
  Tensor product, scales, bias = {0}, residual = {0};
  TRY(input(context, 0, &product));
  TRY(input(context, 1, &scales));
  if (has_bias) TRY(input(context, 2, &bias));
  if (has_residual) TRY(input(context, 2 + (size_t)has_bias, &residual));
  size_t rows = rows_of(&product), width = product.rank ? (size_t)product.sizes[product.rank - 1] : 0;
  if (!product.rank || !fits(&scales, rows, 1) || (has_bias && !has_sizes(&bias, 1, width, 0, 0, 0)) ||
      (has_residual && !fits(&residual, rows, width)))
    return fail("Scale: shapes do not fit");
  ScaleAdd work = {product.data, scales.data, bias.data, residual.data, NULL, width};
  TRY(output(context, 0, product.sizes, product.rank, &work.result));
  return run(context, kernels.scale_add, &work, rows, 2 * width);
}

Status *scale_plain(void *unused, Context *context) { (void)unused; return scale(context, 0, 0); }
Status *scale_bias(void *unused, Context *context) { (void)unused; return scale(context, 1, 0); }
Status *scale_add(void *unused, Context *context) { (void)unused; return scale(context, 0, 1); }
Status *scale_bias_add(void *unused, Context *context) { (void)unused; return scale(context, 1, 1); }

// From how many rows on tiles pay: below, they would be empty for the most part.
#define TILE_ROWS 8

// A bias, a residual or both come behind rounded rows, their scales, the matrix and its scales.
static Status *product(const Matrix *matrix, Context *context, int has_bias, int has_residual) {
  Tensor rounded, scales, bias = {0}, residual = {0};
  TRY(input(context, 0, &rounded));
  TRY(input(context, 1, &scales));
  if (has_bias) TRY(input(context, 4, &bias));
  if (has_residual) TRY(input(context, 4 + (size_t)has_bias, &residual));
  size_t rows = rows_of(&rounded), columns = matrix->columns;
  if (!fits(&rounded, rows, matrix->depth) || !fits(&scales, rows, 1) ||
      (has_bias && !has_sizes(&bias, 1, columns, 0, 0, 0)) || (has_residual && !fits(&residual, rows, columns)))
    return fail("Product: shapes do not fit");
  Product work = {matrix, rounded.data, scales.data, bias.data, residual.data, NULL, rows};
  rounded.sizes[rounded.rank - 1] = (int64_t)columns;
  TRY(output(context, 0, rounded.sizes, rounded.rank, &work.result));
  if (!rows) return NULL;
  size_t tasks = (matrix->blocks + TASK_BLOCKS - 1) / TASK_BLOCKS;
  Kernel kernel = products == AMX && rows >= TILE_ROWS ? product_amx : product_vnni;
  return run(context, kernel, &work, tasks, TASK_BLOCKS * 4 * (matrix->depth + 4 * rows));
}

Status *product_plain(void *matrix, Context *context) { return product(matrix, context, 0, 0); }
Status *product_bias(void *matrix, Context *context) { return product(matrix, context, 1, 0); }
Status *product_add(void *matrix, Context *context) { return product(matrix, context, 0, 1); }
Status *product_bias_add(void *matrix, Context *context) { return product(matrix, context, 1, 1); }

Status *top_candidates(void *unused, Context *context) {
  (void)unused;
  Tensor logits, count;
  TRY(input(context, 0, &logits));
  TRY(input(context, 1, &count));
  if (logits.rank != 2 || !has_sizes(&count, 1, 1, 0, 0, 0)) return fail("TopCandidates: shapes do not fit");
  int64_t wanted = *(const int64_t *)count.data;
  if (wanted < 1 || wanted > logits.sizes[1]) return fail("TopCandidates: more than there are, or none");
  TopCandidates work = {logits.data, NULL, NULL, (size_t)logits.sizes[1], (size_t)wanted};
  int64_t sizes[2] = {logits.sizes[0], wanted};
  TRY(output(context, 0, sizes, 2, &work.log_probs));
  TRY(output(context, 1, sizes, 2, &work.ids));
  return run(context, kernels.top_candidates, &work, (size_t)sizes[0], 3 * work.vocabulary);
}

Status *create_plain(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused; (void)info;
  *kernel = malloc(1);
  return *kernel ? NULL : fail("out of memory");
}

void destroy(void *kernel) { free(kernel); }

void destroy_product(void *matrix) { release_matrix(matrix); }

// The matrix is packed once, when a session is opened.
Status *create_product(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused;
  const Value *values[2];
  Tensor weights, scales;
  for (size_t i = 0; i < 2; i++) {
    int constant = 0;
    TRY(INFO_CONSTANT(info, 2 + i, &constant, &values[i]));
    if (!constant) return fail("Product: the matrix is no constant");
  }
  TRY(read_tensor(values[0], &weights));
  TRY(read_tensor(values[1], &scales));
  if (weights.rank != 2 || !has_sizes(&scales, 1, (size_t)weights.sizes[1], 0, 0, 0))
    return fail("Product: shapes do not fit");
  const Matrix *held = hold_matrix(weights.data, scales.data, (size_t)weights.sizes[0], (size_t)weights.sizes[1]);
  if (!held) return fail("out of memory");
  *kernel = (void *)held;
  return NULL;
}
