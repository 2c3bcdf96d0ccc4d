// The operators of the domain "seqserve" for ONNX Runtime: tensors in, kernels over them on the runtime's threads.
//
// What each computes is defined by the function of the same name that every graph carries
// (export/seqserve_export/graphs/kernels.py); without this library the runtime puts that in its place.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "runtime.h"

#define RANK 4
#define PART 16384     // numbers read or written from which on a second thread pays
#define MOST_PARTS 16

static const Api *api;
static Kernels kernels;

typedef struct {
  void *data;
  size_t rank;
  int64_t sizes[RANK];
} Tensor;

typedef struct {
  int64_t heads, key_heads;
  float scale;
} Attributes;

static Status *fail(const char *why) { return CREATE_STATUS(FAIL, why); }

#define TRY(call)                       \
  do {                                  \
    Status *problem = (call);           \
    if (problem) return problem;        \
  } while (0)

// data NULL for an input that is left out.
static Status *input(Context *context, size_t index, Tensor *tensor) {
  size_t count;
  const Value *value = NULL;
  Shape *shape;
  *tensor = (Tensor){0};
  TRY(CONTEXT_INPUT_COUNT(context, &count));
  if (index >= count) return NULL;
  TRY(CONTEXT_INPUT(context, index, &value));
  if (!value) return NULL;
  TRY(TENSOR_DATA(value, &tensor->data));
  TRY(TENSOR_SHAPE(value, &shape));
  Status *problem = SHAPE_RANK(shape, &tensor->rank);
  if (!problem && tensor->rank > RANK) problem = fail("more dimensions than 4");
  if (!problem) problem = SHAPE_SIZES(shape, tensor->sizes, tensor->rank);
  SHAPE_RELEASE(shape);
  return problem;
}

static Status *output(Context *context, size_t index, const int64_t *sizes, size_t rank, void *data) {
  Value *value;
  TRY(CONTEXT_OUTPUT(context, index, sizes, rank, &value));
  return TENSOR_DATA(value, (void **)data);
}

static size_t rows_of(const Tensor *tensor) {
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

// ``cost``: numbers that one task reads and writes.
static Status *run(Context *context, Kernel kernel, const void *work, size_t tasks, size_t cost) {
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

static Status *row_quantize(void *unused, Context *context) {
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

// A bias, a residual or both come behind product and scales.
static Status *scale(Context *context, int has_bias, int has_residual) {
  Tensor product, scales, bias = {0}, residual = {0};
  TRY(input(context, 0, &product));
  TRY(input(context, 1, &scales));
  if (has_bias) TRY(input(context, 2, &bias));
  if (has_residual) TRY(input(context, 2 + (size_t)has_bias, &residual));
  size_t rows = rows_of(&product), width = product.rank ? (size_t)product.sizes[product.rank - 1] : 0;
  if (!product.rank || rows_of(&scales) != rows || (has_bias && (size_t)bias.sizes[bias.rank - 1] != width) ||
      (has_residual && (rows_of(&residual) != rows || (size_t)residual.sizes[residual.rank - 1] != width)))
    return fail("Scale: shapes do not fit");
  ScaleAdd work = {product.data, scales.data, bias.data, residual.data, NULL, width};
  TRY(output(context, 0, product.sizes, product.rank, &work.result));
  return run(context, kernels.scale_add, &work, rows, 2 * width);
}

static Status *scale_plain(void *unused, Context *context) { (void)unused; return scale(context, 0, 0); }
static Status *scale_bias(void *unused, Context *context) { (void)unused; return scale(context, 1, 0); }
static Status *scale_add(void *unused, Context *context) { (void)unused; return scale(context, 0, 1); }
static Status *scale_bias_add(void *unused, Context *context) { (void)unused; return scale(context, 1, 1); }

// Queries, keys, values and lengths of both kinds of step attention.
static Status *step_attention(const Attributes *given, Context *context, int append, int biased) {
  Tensor query, keys, values, last, bias = {0};
  TRY(input(context, 0, &query));
  TRY(input(context, 1, &keys));
  TRY(input(context, 2, &values));
  TRY(input(context, 3, &last));
  if (biased) TRY(input(context, 5, &bias));
  size_t rows = (size_t)query.sizes[0], heads = (size_t)given->heads, key_heads = (size_t)given->key_heads;
  size_t size = (size_t)keys.sizes[3], capacity = (size_t)keys.sizes[2];
  size_t stride = (heads + (append ? 2 * key_heads : 0)) * size;
  if (query.rank != 3 || keys.rank != 4 || values.rank != 4 || memcmp(keys.sizes, values.sizes, sizeof keys.sizes) ||
      (size_t)keys.sizes[0] != rows || (size_t)keys.sizes[1] != key_heads || (size_t)query.sizes[2] != stride ||
      query.sizes[1] != 1 || last.rank != 1 || (size_t)last.sizes[0] != rows || size % 8 || heads % key_heads)
    return fail("attention: shapes do not fit");
  const int32_t *ends = last.data;
  size_t longest = 0;
  for (size_t row = 0; row < rows; row++) {
    if (ends[row] < 0 || (size_t)ends[row] >= capacity) return fail("attention: a position beyond the buffer");
    if ((size_t)ends[row] >= longest) longest = (size_t)ends[row] + 1;
  }
  size_t extent = bias.data ? (size_t)bias.sizes[3] : longest;
  if (extent < longest) return fail("attention: a position beyond the bias");
  StepAttention work = {query.data, bias.data, ends,   keys.data, values.data, NULL,   heads,
                        key_heads,  size,      capacity, extent,  stride,      append, given->scale};
  TRY(output(context, 0, (int64_t[]){(int64_t)rows, 1, (int64_t)(heads * size)}, 3, &work.result));
  if (append) {
    size_t bytes = rows * key_heads * capacity * size * sizeof(float);
    TRY(output(context, 1, keys.sizes, 4, &work.keys));
    TRY(output(context, 2, values.sizes, 4, &work.values));
    // The same memory when bound as input and output at once, as the engine does.
    if (work.keys != keys.data) memcpy(work.keys, keys.data, bytes);
    if (work.values != values.data) memcpy(work.values, values.data, bytes);
  }
  return run(context, kernels.step_attention, &work, rows * key_heads, 2 * longest * size);
}

static Status *self_attention(void *given, Context *context) { return step_attention(given, context, 1, 0); }
static Status *biased_self_attention(void *given, Context *context) { return step_attention(given, context, 1, 1); }
static Status *cross_attention(void *given, Context *context) { return step_attention(given, context, 0, 0); }

// Inputs 2 and 3 say how to pad and pack, which nothing here does.
static Status *attend_packed(const Attributes *given, Context *context, int biased) {
  Tensor packed, lengths, bias = {0};
  TRY(input(context, 0, &packed));
  TRY(input(context, 1, &lengths));
  if (biased) TRY(input(context, 4, &bias));
  size_t heads = (size_t)given->heads, sources = (size_t)lengths.sizes[0];
  if (packed.rank != 2 || lengths.rank != 1 || packed.sizes[1] % (3 * given->heads)) return fail("packed attention: shapes do not fit");
  int64_t *starts = malloc((sources + 1) * sizeof(int64_t));
  if (!starts) return fail("out of memory");
  size_t longest = 0;
  int odd = 0;
  starts[0] = 0;
  for (size_t i = 0; i < sources; i++) {
    int32_t length = ((const int32_t *)lengths.data)[i];
    odd |= length < 0;
    starts[i + 1] = starts[i] + length;
    if (length > 0 && (size_t)length > longest) longest = (size_t)length;
  }
  size_t padded = bias.data ? (size_t)bias.sizes[3] : 0, inner = (size_t)packed.sizes[1] / 3;
  Status *problem = NULL;
  PackedAttention work = {packed.data, bias.data, starts, NULL, heads, inner / heads, padded, given->scale};
  if (odd || starts[sources] != packed.sizes[0] || (bias.data && longest > padded)) problem = fail("packed attention: lengths do not fit");
  if (!problem) problem = output(context, 0, (int64_t[]){packed.sizes[0], (int64_t)inner}, 2, &work.result);
  if (!problem) problem = run(context, kernels.packed_attention, &work, sources * heads, longest * (longest + 4 * work.size));
  free(starts);
  return problem;
}

static Status *packed_attention(void *given, Context *context) { return attend_packed(given, context, 0); }
static Status *biased_packed_attention(void *given, Context *context) { return attend_packed(given, context, 1); }

static Status *top_candidates(void *unused, Context *context) {
  (void)unused;
  Tensor logits, count;
  TRY(input(context, 0, &logits));
  TRY(input(context, 1, &count));
  int64_t wanted = *(const int64_t *)count.data;
  if (logits.rank != 2 || wanted < 1 || wanted > logits.sizes[1]) return fail("TopCandidates: more than there are, or none");
  TopCandidates work = {logits.data, NULL, NULL, (size_t)logits.sizes[1], (size_t)wanted};
  int64_t sizes[2] = {logits.sizes[0], wanted};
  TRY(output(context, 0, sizes, 2, &work.log_probs));
  TRY(output(context, 1, sizes, 2, &work.ids));
  return run(context, kernels.top_candidates, &work, (size_t)sizes[0], 3 * work.vocabulary);
}

// What an operator looks like to the runtime.
typedef struct {
  Operator head;  // first, so that the runtime's pointer is one to this
  const char *name;
  size_t inputs, outputs;
  int input_types[6], output_types[3];
} Declared;

static const char *name(const Operator *op) { return ((const Declared *)op)->name; }
static const char *provider(const Operator *op) { (void)op; return "CPUExecutionProvider"; }
static size_t inputs(const Operator *op) { return ((const Declared *)op)->inputs; }
static size_t outputs(const Operator *op) { return ((const Declared *)op)->outputs; }
static int input_type(const Operator *op, size_t index) { return ((const Declared *)op)->input_types[index]; }
static int output_type(const Operator *op, size_t index) { return ((const Declared *)op)->output_types[index]; }
static int required(const Operator *op, size_t index) { (void)op; (void)index; return REQUIRED; }
static int memory(const Operator *op, size_t index) { (void)op; (void)index; return 0; }
static int version(const Operator *op) { (void)op; return 1; }
static void destroy(void *kernel) { free(kernel); }

static Status *create_plain(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused; (void)info;
  *kernel = malloc(1);
  return *kernel ? NULL : fail("out of memory");
}

static Status *create_attention(const Info *info, int has_key_heads, void **kernel) {
  Attributes *made = malloc(sizeof *made);
  if (!made) return fail("out of memory");
  Status *problem = INFO_INTEGER(info, "num_heads", &made->heads);
  if (!problem) made->key_heads = made->heads;
  if (!problem && has_key_heads) problem = INFO_INTEGER(info, "kv_num_heads", &made->key_heads);
  if (!problem) problem = INFO_FLOAT(info, "scale", &made->scale);
  if (!problem && (made->heads < 1 || made->key_heads < 1)) problem = fail("attention: no heads");
  if (problem) free(made);
  else *kernel = made;
  return problem;
}

static Status *create_step(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused;
  return create_attention(info, 1, kernel);
}

static Status *create_packed(const Operator *op, const Api *unused, const Info *info, void **kernel) {
  (void)op; (void)unused;
  return create_attention(info, 0, kernel);
}

#define COMMON(create_with, compute_with)                                                                         \
  {API_VERSION, NULL, name, provider, input_type, inputs, output_type, outputs, NULL, destroy, required,         \
   required, memory, {NULL}, create_with, compute_with, NULL, version, version}

static const Declared declared[] = {
    {COMMON(create_plain, row_quantize), "RowQuantize", 1, 2, {FLOAT}, {UINT8, FLOAT}},
    {COMMON(create_plain, scale_plain), "Scale", 2, 1, {FLOAT, FLOAT}, {FLOAT}},
    {COMMON(create_plain, scale_bias), "ScaleBias", 3, 1, {FLOAT, FLOAT, FLOAT}, {FLOAT}},
    {COMMON(create_plain, scale_add), "ScaleAdd", 3, 1, {FLOAT, FLOAT, FLOAT}, {FLOAT}},
    {COMMON(create_plain, scale_bias_add), "ScaleBiasAdd", 4, 1, {FLOAT, FLOAT, FLOAT, FLOAT}, {FLOAT}},
    {COMMON(create_step, self_attention), "SelfAttention", 5, 3,
     {FLOAT, FLOAT, FLOAT, INT32, INT32}, {FLOAT, FLOAT, FLOAT}},
    {COMMON(create_step, biased_self_attention), "BiasedSelfAttention", 6, 3,
     {FLOAT, FLOAT, FLOAT, INT32, INT32, FLOAT}, {FLOAT, FLOAT, FLOAT}},
    {COMMON(create_step, cross_attention), "CrossAttention", 6, 1, {FLOAT, FLOAT, FLOAT, INT32, INT32, FLOAT},
     {FLOAT}},
    {COMMON(create_packed, packed_attention), "PackedAttention", 4, 1, {FLOAT, INT32, INT64, INT64}, {FLOAT}},
    {COMMON(create_packed, biased_packed_attention), "BiasedPackedAttention", 5, 1,
     {FLOAT, INT32, INT64, INT64, FLOAT}, {FLOAT}},
    {COMMON(create_plain, top_candidates), "TopCandidates", 2, 2, {FLOAT, INT64}, {FLOAT, INT64}},
};

#define AT(level) (Kernels){row_quantize_##level, scale_add_##level, step_attention_##level, packed_attention_##level, top_candidates_##level}

#if defined(__x86_64__)
#include <cpuid.h>

#define BIT(number) (1u << (number))

// The processor's level, as its own instructions tell it: 4, 3 or less. The system must save the wide registers, too.
static int processor_level(void) {
  unsigned a, b, c, d, low, high;
  const unsigned v3 = BIT(5) | BIT(8);                                          // AVX2, BMI2
  const unsigned v4 = BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31);          // AVX-512 F, DQ, CD, BW, VL
  const unsigned basic = BIT(12) | BIT(27) | BIT(28);                           // FMA, XGETBV, AVX
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & basic) != basic) return 2;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & v3) != v3) return 2;
  return (low & 0xe6) == 0xe6 && (b & v4) == v4 ? 4 : 3;
}
#endif

// SEQSERVE_KERNELS=v3 or plain asks for less than the processor has, to compare.
static Kernels fitting(void) {
#if defined(__x86_64__)
  const char *asked = getenv("SEQSERVE_KERNELS");
  int level = processor_level();  // the compiler's own test for it is not there in every one
  if (asked && !strcmp(asked, "v3") && level > 3) level = 3;
  if (asked && !strcmp(asked, "plain")) level = 2;
  if (level >= 4) return AT(v4);
  if (level >= 3) return AT(v3);
#endif
  return AT(plain);
}

// What the runtime calls when it opens the library.
__attribute__((visibility("default"))) Status *RegisterCustomOps(Options *options, const ApiBase *base) {
  Domain *domain;
  api = base->get(API_VERSION);
  if (!api) return NULL;  // an older runtime: graphs use their own functions
  kernels = fitting();
  TRY(CREATE_DOMAIN("seqserve", &domain));
  for (size_t i = 0; i < sizeof declared / sizeof *declared; i++) TRY(DOMAIN_ADD(domain, &declared[i].head));
  return OPTIONS_ADD_DOMAIN(options, domain);
}
