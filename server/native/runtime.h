// The few entries of ONNX Runtime's C interface that a library of operators needs, by their place in its table.
//
// The runtime's wheel comes without its header. The table only ever grows at its end, and the structure of an operator
// with its version: that is the interface's promise, and what makes a place as good as a name.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define API_VERSION 17  // of what is used here; any runtime since 1.17 has it

typedef struct Status Status;
typedef struct Context Context;
typedef struct Value Value;
typedef struct Info Info;
typedef struct Shape Shape;
typedef struct Domain Domain;
typedef struct Options Options;

typedef struct {
  void *entries[275];
} Api;

typedef struct {
  const Api *(*get)(uint32_t version);
} ApiBase;

enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7 };  // element types
enum { REQUIRED = 0 };  // of inputs and outputs
enum { FAIL = 1 };  // error code

typedef struct Operator Operator;
struct Operator {
  uint32_t version;
  void *create_before_16;
  const char *(*name)(const Operator *);
  const char *(*provider)(const Operator *);
  int (*input_type)(const Operator *, size_t);
  size_t (*inputs)(const Operator *);
  int (*output_type)(const Operator *, size_t);
  size_t (*outputs)(const Operator *);
  void *compute_before_16;
  void (*destroy)(void *);
  int (*input_kind)(const Operator *, size_t);
  int (*output_kind)(const Operator *, size_t);
  int (*memory)(const Operator *, size_t);
  void *variadic[4];
  Status *(*create)(const Operator *, const Api *, const Info *, void **);
  Status *(*compute)(void *, Context *);
  void *infer_shape;
  int (*first_version)(const Operator *);
  int (*last_version)(const Operator *);
};

#define ENTRY(number, result, ...) ((result(*)(__VA_ARGS__))api->entries[number])

#define CREATE_STATUS ENTRY(0, Status *, int, const char *)
#define CREATE_DOMAIN ENTRY(26, Status *, const char *, Domain **)
#define DOMAIN_ADD ENTRY(27, Status *, Domain *, const Operator *)
#define OPTIONS_ADD_DOMAIN ENTRY(28, Status *, Options *, Domain *)
#define TENSOR_DATA ENTRY(51, Status *, const Value *, void **)
#define SHAPE_RANK ENTRY(61, Status *, const Shape *, size_t *)
#define SHAPE_SIZES ENTRY(62, Status *, const Shape *, int64_t *, size_t)
#define TENSOR_SHAPE ENTRY(65, Status *, const Value *, Shape **)
#define INFO_FLOAT ENTRY(85, Status *, const Info *, const char *, float *)
#define INFO_INTEGER ENTRY(86, Status *, const Info *, const char *, int64_t *)
#define CONTEXT_INPUT ENTRY(90, Status *, const Context *, size_t, const Value **)
#define CONTEXT_OUTPUT ENTRY(91, Status *, Context *, size_t, const int64_t *, size_t, Value **)
#define SHAPE_RELEASE ENTRY(99, void, Shape *)
#define INFO_CONSTANT ENTRY(249, Status *, const Info *, size_t, int *, const Value **)
#define PARALLEL_FOR ENTRY(274, Status *, const Context *, void (*)(void *, size_t), size_t, size_t, void *)
