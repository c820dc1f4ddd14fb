// Arguments that all suppression operators share: one score per box, optional labels and image ids.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "../checks.h"
#include "../torch_compat.h"

namespace cvlib {

inline void check_scores(const Tensor& scores, const Tensor& boxes) {
  check_same_dtype(scores, boxes);
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0),
                  "expected one score per box");
}

// Kernels count ranks and indices of boxes in int32.
inline void check_box_count(const Tensor& boxes) {
  STD_TORCH_CHECK(boxes.size(0) < std::numeric_limits<int32_t>::max(),
                  "expected fewer than 2^31 - 1 boxes");
}

// Labels or image ids, one per box.
inline std::optional<Tensor> contiguous_ids(const std::optional<Tensor>& ids, int64_t n) {
  if (!ids.has_value()) return std::nullopt;
  STD_TORCH_CHECK(ids->dim() == 1 && ids->size(0) == n && ids->scalar_type() == ScalarType::Long,
                  "expected int64 ids, one per box");
  return as_contiguous(*ids);
}

// Null without ids.
inline const int64_t* id_data(const std::optional<Tensor>& ids) {
  return ids ? data<int64_t>(*ids) : nullptr;
}

// A negative `max_output` means no limit.
inline int64_t output_limit(int64_t max_output, int64_t n) {
  return max_output < 0 ? n : max_output;
}

}  // namespace cvlib
