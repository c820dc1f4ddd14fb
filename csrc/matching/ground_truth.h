// Padding of ground truths. Shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "../box_math.h"

namespace cvlib {

// Padding rows of match_anchors hold -1 in all four coordinates.
template <class T>
CVLIB_HOST_DEVICE bool is_padding(const Box<T>& box) {
  return box.x1 == T(-1) && box.y1 == T(-1) && box.x2 == T(-1) && box.y2 == T(-1);
}

}  // namespace cvlib
