#include "tensors.h"

#define PART 16384     // numbers read or written from which on a second thread pays
#define MOST_PARTS 16

const Api *api;
Kernels kernels;
ProductLevel products;

Status *fail(const char *why) { return CREATE_STATUS(FAIL, why); }

Status *read_tensor(const Value *value, Tensor *tensor) {
  Shape *shape;
  *tensor = (Tensor){0};
  TRY(TENSOR_DATA(value, &tensor->data));
  TRY(TENSOR_SHAPE(value, &shape));
  Status *problem = SHAPE_RANK(shape, &tensor->rank);
  if (!problem && tensor->rank > RANK) problem = fail("more dimensions than 4");
  if (!problem) problem = SHAPE_SIZES(shape, tensor->sizes, tensor->rank);
  SHAPE_RELEASE(shape);
  return problem;
}

Status *input(Context *context, size_t index, Tensor *tensor) {
  const Value *value = NULL;
  TRY(CONTEXT_INPUT(context, index, &value));
  return value ? read_tensor(value, tensor) : fail("an input is missing");
}

Status *output(Context *context, size_t index, const int64_t *sizes, size_t rank, void *data) {
  Value *value;
  TRY(CONTEXT_OUTPUT(context, index, sizes, rank, &value));
  return TENSOR_DATA(value, (void **)data);
}

int has_sizes(const Tensor *tensor, size_t rank, size_t a, size_t b, size_t c, size_t d) {
  const size_t wanted[RANK] = {a, b, c, d};
  int fits = tensor->rank == rank;
  for (size_t i = 0; fits && i < rank; i++) fits = wanted[i] == ANY || (size_t)tensor->sizes[i] == wanted[i];
  return fits;
}

size_t rows_of(const Tensor *tensor) {
  size_t rows = 1;
  for (size_t i = 0; i + 1 < tensor->rank; i++) rows *= (size_t)tensor->sizes[i];
  return rows;
}

typedef struct {
  Kernel kernel;
  const void *work;
  size_t tasks, parts;
  int failed[MOST_PARTS];
} Job;

static void run_part(void *given, size_t part) {
  Job *job = given;
  size_t first = job->tasks * part / job->parts, last = job->tasks * (part + 1) / job->parts;
  if (!job->kernel(job->work, first, last)) job->failed[part] = 1;
}

Status *run(Context *context, Kernel kernel, const void *work, size_t tasks, size_t cost) {
  if (!tasks) return NULL;
  Job job = {kernel, work, tasks, tasks * cost / PART, {0}};
  if (job.parts > tasks) job.parts = tasks;
  if (job.parts > MOST_PARTS) job.parts = MOST_PARTS;
  if (job.parts < 2) return kernel(work, 0, tasks) ? NULL : fail("out of memory");
  TRY(PARALLEL_FOR(context, run_part, job.parts, 0, &job));
  for (size_t part = 0; part < job.parts; part++)
    if (job.failed[part]) return fail("out of memory");
  return NULL;
}
