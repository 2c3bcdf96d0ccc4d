// Tensors of the runtime as plain memory, and its threads for kernels.
#pragma once

#include "kernels.h"
#include "product.h"
#include "runtime.h"

#define RANK 4

typedef struct {
  void *data;
  size_t rank;
  int64_t sizes[RANK];
} Tensor;

extern const Api *api;
extern Kernels kernels;        // of this processor
extern ProductLevel products;  // of this processor, or less if that was asked for

#define TRY(call)                       \
  do {                                  \
    Status *problem = (call);           \
    if (problem) return problem;        \
  } while (0)

Status *fail(const char *why);
Status *read_tensor(const Value *value, Tensor *tensor);
Status *input(Context *context, size_t index, Tensor *tensor);

// ``data``: a pointer to where the pointer to the output's memory goes.
Status *output(Context *context, size_t index, const int64_t *sizes, size_t rank, void *data);

#define ANY SIZE_MAX

// Whether a tensor has this rank and these sizes, of which those beyond the rank do not count.
int has_sizes(const Tensor *tensor, size_t rank, size_t a, size_t b, size_t c, size_t d);

// The product of all sizes but the last.
size_t rows_of(const Tensor *tensor);

// Does all tasks of some work. ``cost``: numbers that one task reads and writes.
Status *run(Context *context, Kernel kernel, const void *work, size_t tasks, size_t cost);

// The operators: register.c has their names and types.
Status *row_quantize(void *kernel, Context *context);
Status *scale_plain(void *kernel, Context *context);
Status *scale_bias(void *kernel, Context *context);
Status *scale_add(void *kernel, Context *context);
Status *scale_bias_add(void *kernel, Context *context);
Status *product_plain(void *kernel, Context *context);
Status *product_bias(void *kernel, Context *context);
Status *product_add(void *kernel, Context *context);
Status *product_bias_add(void *kernel, Context *context);
Status *self_attention(void *kernel, Context *context);
Status *biased_self_attention(void *kernel, Context *context);
Status *cross_attention(void *kernel, Context *context);
Status *packed_attention(void *kernel, Context *context);
Status *biased_packed_attention(void *kernel, Context *context);
Status *retain(void *kernel, Context *context);
Status *top_candidates(void *kernel, Context *context);

Status *create_plain(const Operator *op, const Api *unused, const Info *info, void **kernel);
Status *create_product(const Operator *op, const Api *unused, const Info *info, void **kernel);
Status *create_step(const Operator *op, const Api *unused, const Info *info, void **kernel);
Status *create_packed(const Operator *op, const Api *unused, const Info *info, void **kernel);
void destroy(void *kernel);
void destroy_product(void *matrix);
