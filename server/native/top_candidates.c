// The best of each row of logits with their log-probabilities, in two passes over the row.
#include <math.h>

#include "kernels.h"
#include "vectors.h"

#define BLOCK 1024  // summed in floats; the sums of blocks in doubles

static float maximum(const float *logits, size_t size) {
  floats most = all(-__builtin_inff());
  size_t i = 0;
  for (; i + LANES <= size; i += LANES) most = __builtin_elementwise_max(most, load(logits + i));
  float top = largest(most);
  for (; i < size; i++) top = fmaxf(top, logits[i]);
  return top;
}

// log(sum(e^(logit - top))). NaN if any logit is.
static float log_sum(const float *logits, size_t size, float top) {
  double total = 0;
  size_t i = 0;
  while (i + LANES <= size) {
    size_t end = i + BLOCK < size ? i + BLOCK : size;
    floats part = all(0);
    for (; i + LANES <= end; i += LANES) part += exponential(load(logits + i) - top);
    total += sum(part);
  }
  if (i < size) {
    floats rest = all(-__builtin_inff());
    for (size_t j = 0; i + j < size; j++) rest[j] = logits[i + j] - top;
    total += sum(exponential(rest));
  }
  return (float)log(total);
}

// Whether candidate a is worse than b: lower, or as high with a higher id.
static int worse(const float *logits, int64_t a, int64_t b) {
  return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

// ids[0 .. count-1] is a heap with the worst on top, but for ids[at]; puts it in its place.
static void sift(const float *logits, int64_t *ids, size_t count, size_t at) {
  for (;;) {
    size_t next = 2 * at + 1;
    if (next >= count) return;
    if (next + 1 < count && worse(logits, ids[next + 1], ids[next])) next++;
    if (!worse(logits, ids[next], ids[at])) return;
    int64_t other = ids[at];
    ids[at] = ids[next];
    ids[next] = other;
    at = next;
  }
}

static void best(const float *logits, size_t size, int64_t *ids, size_t count) {
  for (size_t i = 0; i < count; i++) ids[i] = (int64_t)i;
  for (size_t i = count / 2; i-- > 0;) sift(logits, ids, count, i);
  for (size_t i = count; i < size;) {
    // Most do not reach the worst that is kept: look at sixteen at once.
    float bar = logits[ids[0]];
    if (i + LANES <= size && !__builtin_reduce_or((integers)(load(logits + i) > bar))) {
      i += LANES;
      continue;
    }
    size_t end = i + LANES < size ? i + LANES : size;
    for (; i < end; i++) {
      if (logits[i] > logits[ids[0]]) {
        ids[0] = (int64_t)i;
        sift(logits, ids, count, 0);
      }
    }
  }
  for (size_t left = count; left-- > 1;) {  // the worst of those left goes behind them
    int64_t last = ids[left];
    ids[left] = ids[0];
    ids[0] = last;
    sift(logits, ids, left, 0);
  }
}

int KERNEL(top_candidates)(const void *given, size_t first, size_t last) {
  const TopCandidates *work = given;
  for (size_t row = first; row < last; row++) {
    const float *logits = work->logits + row * work->vocabulary;
    int64_t *ids = work->ids + row * work->count;
    float top = maximum(logits, work->vocabulary), rest = log_sum(logits, work->vocabulary, top);
    best(logits, work->vocabulary, ids, work->count);
    for (size_t i = 0; i < work->count; i++)
      work->log_probs[row * work->count + i] = (logits[ids[i]] - top) - rest;
  }
  return 1;
}
