// IoU of masks from exact counts of pixels. Shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "../host_device.h"

namespace cvlib {

constexpr int64_t kWordBits = 64;

// 0 where both masks, or for a crowd the first one, have no pixel.
CVLIB_HOST_DEVICE float iou_of_counts(int64_t shared, int64_t area1, int64_t area2, bool is_crowd) {
  const int64_t whole = is_crowd ? area1 : area1 + area2 - shared;
  return whole == 0 ? 0.0f
                    : static_cast<float>(static_cast<double>(shared) / static_cast<double>(whole));
}

}  // namespace cvlib
