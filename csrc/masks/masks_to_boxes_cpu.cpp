// The smallest box around each mask, on the CPU.
//
// The first and the last pixel that is set are found by scanning from both ends. Between them only
// what lies outside of the columns found so far is read, and that is one stretch of memory for each
// row: from the right edge of the box in one row to its left edge in the next. So the inside of an
// object is never read, and the rest is read once, in wide loads. A task takes a band of rows of
// one mask; bands are joined afterwards.
#include <algorithm>
#include <vector>

#include "../parallel.h"
#include "checks_masks.h"
#include "planes.h"

namespace cvlib {
namespace {

constexpr int64_t kBytesPerBand = int64_t{1} << 18;

// In pixels that are set; x1 > x2 when there is none.
struct Extent {
  int64_t x1 = INT64_MAX, y1 = INT64_MAX, x2 = -1, y2 = -1;

  void join(const Extent& other) {
    x1 = std::min(x1, other.x1), y1 = std::min(y1, other.y1);
    x2 = std::max(x2, other.x2), y2 = std::max(y2, other.y2);
  }
};

template <int kBytes, class U>
bool is_clear(const U* values, U bits) {
  U any = 0;
  for (size_t k = 0; k < kBytes / sizeof(U); ++k) any |= values[k];
  return (any & bits) == 0;
}

template <int kBytes, class U>
int64_t skip_forward(const U* values, int64_t begin, int64_t end, U bits) {
  constexpr int64_t kStep = kBytes / sizeof(U);
  while (begin + kStep <= end && is_clear<kBytes>(values + begin, bits)) begin += kStep;
  return begin;
}

template <int kBytes, class U>
int64_t skip_backward(const U* values, int64_t begin, int64_t end, U bits) {
  constexpr int64_t kStep = kBytes / sizeof(U);
  while (begin + kStep <= end && is_clear<kBytes>(values + end - kStep, bits)) end -= kStep;
  return end;
}

// Index of the first element of begin..end - 1 that is set, or end.
template <class U>
int64_t first_set(const U* values, int64_t begin, int64_t end, U bits) {
  begin = skip_forward<512>(values, begin, end, bits);
  begin = skip_forward<64>(values, begin, end, bits);
  begin = skip_forward<8>(values, begin, end, bits);
  while (begin < end && (values[begin] & bits) == 0) ++begin;
  return begin;
}

// Index after the last element of begin..end - 1 that is set, or begin.
template <class U>
int64_t after_last_set(const U* values, int64_t begin, int64_t end, U bits) {
  end = skip_backward<512>(values, begin, end, bits);
  end = skip_backward<64>(values, begin, end, bits);
  end = skip_backward<8>(values, begin, end, bits);
  while (end > begin && (values[end - 1] & bits) == 0) --end;
  return end;
}

// Rows top..bottom - 1 of one mask.
template <class U>
Extent find_extent(const U* mask, int64_t width, int64_t top, int64_t bottom, U bits) {
  Extent found;
  const int64_t first = first_set(mask, top * width, bottom * width, bits);
  if (first == bottom * width) return found;
  const int64_t last = after_last_set(mask, first, bottom * width, bits) - 1;
  found.y1 = first / width, found.y2 = last / width;
  found.x1 = std::min(first % width, last % width);
  found.x2 = std::max(first % width, last % width);
  for (int64_t y = found.y1; y <= found.y2; ++y) {
    const int64_t row = y * width, right = row + found.x2 + 1;
    const bool is_last = y == found.y2;
    const int64_t next_left = is_last ? row + width : row + width + found.x1;
    const int64_t outside = first_set(mask, right, next_left, bits);
    if (outside == next_left) continue;
    if (outside < row + width) {
      found.x2 = after_last_set(mask, outside, row + width, bits) - 1 - row;
    }
    if (!is_last) {
      found.x1 = first_set(mask, row + width, next_left, bits) - row - width;
    }
  }
  return found;
}

Tensor masks_to_boxes_cpu(const Tensor& masks) {
  check_masks(masks);
  const Planes planes = as_planes(masks);
  Tensor out = empty(masks, {planes.count, 4}, ScalarType::Float);
  float* boxes = mutable_data<float>(out);
  if (planes.size() == 0) {
    std::fill(boxes, boxes + 4 * planes.count, 0.0f);
    return out;
  }
  dispatch_bits(masks.scalar_type(), [&](auto zero, auto bits) {
    using U = decltype(zero);
    const U* values = data<U>(planes.tensor);
    const int64_t row_bytes = planes.width * int64_t{sizeof(U)};
    const int64_t rows = std::min(planes.height, kBytesPerBand / row_bytes + 1);
    const int64_t bands = (planes.height + rows - 1) / rows;
    std::vector<Extent> extents(planes.count * bands);
    parallel_for(planes.count * bands, kBytesPerBand / (rows * row_bytes) + 1,
                 [&](int64_t begin, int64_t end) {
                   with_best_instructions([&] {
                     for (int64_t task = begin; task < end; ++task) {
                       const int64_t n = task / bands, top = task % bands * rows;
                       extents[task] = find_extent(values + n * planes.stride, planes.width, top,
                                                   std::min(planes.height, top + rows), bits);
                     }
                   });
                 });
    for (int64_t n = 0; n < planes.count; ++n) {
      Extent all;
      for (int64_t band = 0; band < bands; ++band) all.join(extents[n * bands + band]);
      const bool is_empty = all.x2 < 0;
      boxes[4 * n] = is_empty ? 0.0f : static_cast<float>(all.x1);
      boxes[4 * n + 1] = is_empty ? 0.0f : static_cast<float>(all.y1);
      boxes[4 * n + 2] = is_empty ? 0.0f : static_cast<float>(all.x2 + 1);
      boxes[4 * n + 3] = is_empty ? 0.0f : static_cast<float>(all.y2 + 1);
    }
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("masks_to_boxes", TORCH_BOX(&cvlib::masks_to_boxes_cpu));
}
