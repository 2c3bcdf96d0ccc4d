#include "product.h"

#include <stdlib.h>
#include <string.h>

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

int pack_matrix(Matrix *matrix, const int8_t *weights, const float *scales, size_t depth, size_t columns) {
  Matrix m = {NULL, NULL, NULL, depth, up(depth, 64), columns, up(columns, 16) / 16};
  size_t bytes = m.blocks * 16 * m.padded_depth;
  m.packed = aligned_alloc(bytes < 1 << 21 ? 64 : 1 << 21, up(bytes, bytes < 1 << 21 ? 64 : 1 << 21));
  m.offsets = calloc(m.blocks * 16, sizeof *m.offsets);
  m.scales = calloc(m.blocks * 16, sizeof *m.scales);
  if (!m.packed || !m.offsets || !m.scales) {
    free_matrix(&m);
    return 0;
  }
#if defined(__x86_64__)
  if (bytes >= 1 << 21) madvise(m.packed, up(bytes, 1 << 21), MADV_HUGEPAGE);  // a step reads all of it
#endif
  memset(m.packed, 0, bytes);
  memcpy(m.scales, scales, columns * sizeof *scales);
  for (size_t k = 0; k < depth; k++) {
    for (size_t n = 0; n < columns; n++) {
      int8_t weight = weights[k * columns + n];
      m.packed[(n / 16) * 16 * m.padded_depth + k / 4 * 64 + n % 16 * 4 + k % 4] = weight;
      m.offsets[n] += 128 * weight;
    }
  }
  *matrix = m;
  return 1;
}

void free_matrix(Matrix *matrix) {
  free(matrix->packed);
  free(matrix->offsets);
  free(matrix->scales);
}
