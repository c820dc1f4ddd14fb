// The smallest box around each mask, on the CPU.
//
// The first and last set pixels are found by scanning from both ends. Between them, only pixels
// outside the columns found so far are read, which is one stretch of memory per row: from the right
// edge of the box in one row to its left edge in the next. So the inside of an object is never
// read, and everything else is read once, in wide loads. A task takes a band of rows of one mask;
// bands are joined at the end. Work: at most one pass over the pixels.
#include <algorithm>
#include <vector>

#include "../parallel.h"
#include "checks.h"
#include "extent.h"
#include "planes.h"

namespace cvlib {
namespace {

constexpr int64_t kBytesPerBand = int64_t{1} << 18;

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

// Index of the first set element in begin..end - 1, or end.
template <class U>
int64_t first_set(const U* values, int64_t begin, int64_t end, U bits) {
  begin = skip_forward<512>(values, begin, end, bits);
  begin = skip_forward<64>(values, begin, end, bits);
  begin = skip_forward<8>(values, begin, end, bits);
  while (begin < end && (values[begin] & bits) == 0) ++begin;
  return begin;
}

// Index after the last set element in begin..end - 1, or begin.
template <class U>
int64_t after_last_set(const U* values, int64_t begin, int64_t end, U bits) {
  end = skip_backward<512>(values, begin, end, bits);
  end = skip_backward<64>(values, begin, end, bits);
  end = skip_backward<8>(values, begin, end, bits);
  while (end > begin && (values[end - 1] & bits) == 0) --end;
  return end;
}

// Extent of the rows top..bottom - 1 of one mask.
template <class U>
MaskExtent find_extent(const U* mask, int64_t width, int64_t top, int64_t bottom, U bits) {
  MaskExtent extent = empty_extent();
  const int64_t first = first_set(mask, top * width, bottom * width, bits);
  if (first == bottom * width) return extent;
  const int64_t last = after_last_set(mask, first, bottom * width, bits) - 1;
  extent.y1 = first / width, extent.y2 = last / width;
  extent.x1 = std::min(first % width, last % width);
  extent.x2 = std::max(first % width, last % width);
  for (int64_t y = extent.y1; y <= extent.y2; ++y) {
    const int64_t row = y * width, right = row + extent.x2 + 1;
    const bool is_last = y == extent.y2;
    const int64_t next_left = is_last ? row + width : row + width + extent.x1;
    const int64_t outside = first_set(mask, right, next_left, bits);
    if (outside == next_left) continue;
    if (outside < row + width) {
      extent.x2 = after_last_set(mask, outside, row + width, bits) - 1 - row;
    }
    if (!is_last) {
      extent.x1 = first_set(mask, row + width, next_left, bits) - row - width;
    }
  }
  return extent;
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
    std::vector<MaskExtent> extents(planes.count * bands);
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
      MaskExtent extent = empty_extent();
      for (int64_t band = 0; band < bands; ++band) extent = join(extent, extents[n * bands + band]);
      write_box(to_box(extent), boxes + 4 * n);
    }
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("masks_to_boxes", TORCH_BOX(&cvlib::masks_to_boxes_cpu));
}
