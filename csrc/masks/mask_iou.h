// IoU of masks from exact pixel counts. Shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "../host_device.h"

namespace cvlib {

constexpr int64_t kWordBits = 64;

// 0 if both masks are empty, or for a crowd the first one.
CVLIB_HOST_DEVICE float iou_of_counts(int64_t shared, int64_t area1, int64_t area2, bool is_crowd) {
  const int64_t joined = is_crowd ? area1 : area1 + area2 - shared;
  return joined == 0
             ? 0.0f
             : static_cast<float>(static_cast<double>(shared) / static_cast<double>(joined));
}

}  // namespace cvlib
