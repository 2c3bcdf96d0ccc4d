#include "product.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define HUGE ((size_t)1 << 21)  // bytes of a huge page

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(number) (1u << (number))
#define REQUEST_PERMISSION 0x1023  // ARCH_REQ_XCOMP_PERM
#define TILE_DATA 18

ProductLevel product_level(void) {
  unsigned a, b, c, d, low, high;
  const unsigned wide = BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31);  // AVX-512 F, DQ, CD, BW, VL
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(27))) return NO_PRODUCTS;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0xe6) != 0xe6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return NO_PRODUCTS;
  if ((b & wide) != wide || !(c & BIT(11))) return NO_PRODUCTS;  // VNNI
  int tiles = (d & BIT(24)) && (d & BIT(25)) && (low & 0x60000) == 0x60000;  // AMX-TILE, AMX-INT8, saved by the system
  // Tiles are a large state, which the system gives to those that ask.
  return tiles && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? AMX : VNNI;
}
#else
ProductLevel product_level(void) { return NO_PRODUCTS; }
int product_vnni(const void *work, size_t first, size_t last) { (void)work; (void)first; (void)last; return 0; }
int product_amx(const void *work, size_t first, size_t last) { (void)work; (void)first; (void)last; return 0; }
#endif

static size_t up(size_t number, size_t to) { return (number + to - 1) / to * to; }

static Matrix *matrices;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t packed_bytes(const Matrix *m) { return m->blocks * 16 * m->padded_depth; }

static void free_matrix(Matrix *matrix) {
  free(matrix->packed);
  free(matrix->offsets);
  free(matrix->scales);
  free(matrix);
}

static Matrix *pack(const int8_t *weights, const float *scales, size_t depth, size_t columns) {
  Matrix *m = calloc(1, sizeof *m);
  if (!m) return NULL;
  m->depth = depth, m->padded_depth = up(depth, 64), m->columns = columns, m->blocks = up(columns, 16) / 16;
  size_t bytes = packed_bytes(m), alignment = bytes < HUGE ? 64 : HUGE;
  m->packed = aligned_alloc(alignment, up(bytes, alignment));
  m->offsets = calloc(m->blocks * 16, sizeof *m->offsets);
  m->scales = calloc(m->blocks * 16, sizeof *m->scales);
  if (!m->packed || !m->offsets || !m->scales) {
    free_matrix(m);
    return NULL;
  }
#if defined(__x86_64__)
  if (bytes >= HUGE) madvise(m->packed, up(bytes, HUGE), MADV_HUGEPAGE);  // a step reads all of it
#endif
  memset(m->packed, 0, bytes);
  memcpy(m->scales, scales, columns * sizeof *scales);
  for (size_t k = 0; k < depth; k++) {
    for (size_t n = 0; n < columns; n++) {
      int8_t weight = weights[k * columns + n];
      m->packed[(n / 16) * 16 * m->padded_depth + k / 4 * 64 + n % 16 * 4 + k % 4] = weight;
      m->offsets[n] += 128 * weight;
    }
  }
  return m;
}

static int same(const Matrix *a, const Matrix *b) {
  return a->depth == b->depth && a->columns == b->columns &&
         !memcmp(a->scales, b->scales, a->columns * sizeof *a->scales) &&
         !memcmp(a->packed, b->packed, packed_bytes(a));
}

const Matrix *hold_matrix(const int8_t *weights, const float *scales, size_t depth, size_t columns) {
  Matrix *made = pack(weights, scales, depth, columns), *found;
  if (!made) return NULL;
  pthread_mutex_lock(&lock);
  for (found = matrices; found && !same(found, made); found = found->next) continue;
  if (!found) {
    made->next = matrices;
    matrices = found = made;
    made = NULL;
  }
  found->users++;
  pthread_mutex_unlock(&lock);
  if (made) free_matrix(made);
  return found;
}

void release_matrix(const Matrix *matrix) {
  pthread_mutex_lock(&lock);
  for (Matrix **at = &matrices; *at; at = &(*at)->next) {
    Matrix *found = *at;
    if (found != matrix) continue;
    if (--found->users == 0) {
      *at = found->next;
      free_matrix(found);
    }
    break;
  }
  pthread_mutex_unlock(&lock);
}
