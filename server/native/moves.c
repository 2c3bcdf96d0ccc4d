// Zeroing and carrying parts of the state of rows and places, many at a time: a step's worth is one call, during which
// the interpreter's lock is either kept or let go once, not once for each part.
#include <stdint.h>
#include <string.h>

// One array [count, indices, outer, positions, ...]. A fixed state has no positions (-1): all of it is one.
typedef struct {
  char *address;
  int64_t count, count_stride, indices, index_stride, outer, outer_stride, positions, position_bytes;
} Region;

// Positions start .. end, or as many of them as there are, of one index of some neighbouring regions: from an index of as
// many others, whose positions begin at `from_start`, or zeros (source -1).
typedef struct {
  int64_t first, regions, destination, from, source, start, end, from_start;
} Edit;

static void edit_region(const Region *region, const Region *other, const Edit *edit) {
  int64_t fixed = region->positions < 0, start = fixed ? 0 : edit->start, end = fixed ? 1 : edit->end;
  if (!fixed && end > region->positions) end = region->positions;
  if (start >= end) return;
  size_t bytes = (size_t)((end - start) * region->position_bytes);
  char *to = region->address + edit->destination * region->index_stride + start * region->position_bytes;
  const char *from = other->address + edit->source * other->index_stride;
  if (!fixed) from += edit->from_start * region->position_bytes;
  for (int64_t one = 0; one < region->count; one++)
    for (int64_t part = 0; part < region->outer; part++) {
      char *here = to + one * region->count_stride + part * region->outer_stride;
      if (edit->source < 0)
        memset(here, 0, bytes);
      else
        memmove(here, from + one * other->count_stride + part * other->outer_stride, bytes);
    }
}

static int is_inside(const Region *region, const Region *other, const Edit *edit) {
  if (edit->destination < 0 || edit->destination >= region->indices || edit->start < 0) return 0;
  if (edit->source < 0) return edit->source == -1;
  if (edit->source >= other->indices || edit->from_start < 0) return 0;
  int64_t end = edit->end < region->positions ? edit->end : region->positions;
  return region->positions < 0 || edit->from_start + end - edit->start <= other->positions;
}

// All edits in their order. Returns the number of the first that is outside its regions, before any is done; or -1.
__attribute__((visibility("default"))) int64_t seqserve_edit(const Region *regions, const Edit *edits, int64_t count) {
  for (int64_t number = 0; number < count; number++)
    for (int64_t one = 0; one < edits[number].regions; one++)
      if (!is_inside(regions + edits[number].first + one, regions + edits[number].from + one, edits + number))
        return number;
  for (int64_t number = 0; number < count; number++)
    for (int64_t one = 0; one < edits[number].regions; one++)
      edit_region(regions + edits[number].first + one, regions + edits[number].from + one, edits + number);
  return -1;
}
