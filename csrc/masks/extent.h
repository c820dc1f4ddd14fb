// The smallest box around the pixels of a mask. Shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "../box_math.h"

namespace cvlib {

// First and last columns and rows with a set pixel; x2 < 0 if there is none. Without default
// values, because shared memory on CUDA does not allow them.
struct MaskExtent {
  int64_t x1, y1, x2, y2;
};

CVLIB_HOST_DEVICE MaskExtent empty_extent() { return {INT64_MAX, INT64_MAX, -1, -1}; }

CVLIB_HOST_DEVICE MaskExtent join(const MaskExtent& a, const MaskExtent& b) {
  return {smaller(a.x1, b.x1), smaller(a.y1, b.y1), larger(a.x2, b.x2), larger(a.y2, b.y2)};
}

// The box from the near edge of the first pixel to the far edge of the last; zeros for an empty
// mask.
CVLIB_HOST_DEVICE Box<float> to_box(const MaskExtent& e) {
  if (e.x2 < 0) return {0.0f, 0.0f, 0.0f, 0.0f};
  return {static_cast<float>(e.x1), static_cast<float>(e.y1), static_cast<float>(e.x2 + 1),
          static_cast<float>(e.y2 + 1)};
}

}  // namespace cvlib
