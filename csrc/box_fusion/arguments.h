// Checks and settings of weighted boxes fusion. Shared by the CPU and CUDA adapters.
#pragma once

#include "../nms/arguments.h"
#include "cluster.h"

namespace cvlib {

inline void check_weights(const Tensor& weights) {
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Double && weights.dim() == 1 &&
                      weights.size(0) <= kMaxModels,
                  "weighted_boxes_fusion: expected float64 weights of at most 64 models");
}

// The weights stay on their device, so the sums are left to `with_weight_sums`.
inline FusionSettings make_settings(const Tensor& weights, double iou_threshold, int64_t confidence,
                                    bool allows_overflow) {
  return {iou_threshold, static_cast<Confidence>(confidence), allows_overflow,
          data<double>(weights), weights.size(0)};
}

}  // namespace cvlib
