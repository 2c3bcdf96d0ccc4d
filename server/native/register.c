// The operators of the domain "seqserve" for ONNX Runtime: their names and types, and the entry of the library.
//
// What each computes is defined by the function of the same name that every graph carries
// (export/seqserve_export/graphs/kernels.py); without this library the runtime puts that in its place.
#include <stdlib.h>
#include <string.h>

#include "tensors.h"

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

#define COMMON(create_with, compute_with) OPERATOR(create_with, destroy, compute_with)
#define PRODUCT(compute_with) OPERATOR(create_product, destroy_product, compute_with)
#define OPERATOR(create_with, destroy_with, compute_with)                                            \
  {API_VERSION, NULL, name, provider, input_type, inputs, output_type, outputs, NULL, destroy_with,  \
   required, required, memory, {NULL}, create_with, compute_with, NULL, version, version}

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
    {COMMON(create_plain, retain), "Retain", 5, 2, {FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, {FLOAT, FLOAT}},
    {COMMON(create_packed, packed_attention), "PackedAttention", 4, 1, {FLOAT, INT32, INT64, INT64}, {FLOAT}},
    {COMMON(create_packed, biased_packed_attention), "BiasedPackedAttention", 5, 1,
     {FLOAT, INT32, INT64, INT64, FLOAT}, {FLOAT}},
    {COMMON(create_plain, top_candidates), "TopCandidates", 2, 2, {FLOAT, INT64}, {FLOAT, INT64}},
};

static const Declared declared_products[] = {
    {PRODUCT(product_plain), "Product", 4, 1, {UINT8, FLOAT, INT8, FLOAT}, {FLOAT}},
    {PRODUCT(product_bias), "ProductBias", 5, 1, {UINT8, FLOAT, INT8, FLOAT, FLOAT}, {FLOAT}},
    {PRODUCT(product_add), "ProductAdd", 5, 1, {UINT8, FLOAT, INT8, FLOAT, FLOAT}, {FLOAT}},
    {PRODUCT(product_bias_add), "ProductBiasAdd", 6, 1, {UINT8, FLOAT, INT8, FLOAT, FLOAT, FLOAT}, {FLOAT}},
};

#define AT(level)                                                                                     \
  (Kernels) {                                                                                         \
    row_quantize_##level, scale_add_##level, step_attention_##level, packed_attention_##level,        \
        retain_##level, top_candidates_##level                                                        \
  }

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
  // Without the instructions for them, the runtime's own products are as good: the graphs' definitions.
  products = product_level();
  const char *asked = getenv("SEQSERVE_KERNELS");
  if (asked && !strcmp(asked, "vnni") && products == AMX) products = VNNI;
  if (asked && (!strcmp(asked, "v3") || !strcmp(asked, "plain"))) products = NO_PRODUCTS;
  for (size_t i = 0; products && i < sizeof declared_products / sizeof *declared_products; i++)
    TRY(DOMAIN_ADD(domain, &declared_products[i].head));
  return OPTIONS_ADD_DOMAIN(options, domain);
}
