// Rows of padded ground truths, on CPU and CUDA.
#pragma once

#include <cstdint>

#include "../box_math.h"

namespace cvlib {

// match_anchors pads with rows of four times -1.
template <class T>
CVLIB_HOST_DEVICE bool is_padding(const Box<T>& box) {
  return box.x1 == T(-1) && box.y1 == T(-1) && box.x2 == T(-1) && box.y2 == T(-1);
}

}  // namespace cvlib
