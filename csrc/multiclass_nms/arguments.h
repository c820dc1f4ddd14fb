// The second line of defence for multiclass_nms. Shared by the CPU and CUDA adapters.
#pragma once

#include <limits>

#include "../checks.h"

namespace cvlib {

// Boxes (B, N, 4), or (B, N, K, 4) with a box per class; scores (B, N, K).
inline void check_multiclass(const Tensor& boxes, const Tensor& scores, int64_t max_output) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const int64_t dim = boxes.dim();
  STD_TORCH_CHECK((dim == 3 || dim == 4) && scores.dim() == 3,
                  "multiclass_nms: expected boxes (B, N, 4) or (B, N, K, 4) and scores (B, N, K)");
  check_boxes(boxes, dim);
  check_same_dtype(boxes, scores);
  STD_TORCH_CHECK(boxes.size(0) == scores.size(0) && boxes.size(1) == scores.size(1) &&
                      (dim == 3 || boxes.size(2) == scores.size(2)) && max_output >= 0,
                  "multiclass_nms: expected boxes and scores of equal B, N and K");
  STD_TORCH_CHECK(scores.size(0) <= kMax && scores.size(1) <= kMax / (scores.size(2) + 1),
                  "multiclass_nms: expected fewer than 2^31 scores per image");
}

}  // namespace cvlib
