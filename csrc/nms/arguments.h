// Arguments that the operators of suppression share.
#pragma once

#include <optional>

#include "../torch_compat.h"

namespace cvlib {

// Ids of boxes: labels or images.
inline std::optional<Tensor> contiguous_ids(const std::optional<Tensor>& ids, int64_t n) {
  if (!ids.has_value()) return std::nullopt;
  STD_TORCH_CHECK(ids->dim() == 1 && ids->size(0) == n && ids->scalar_type() == ScalarType::Long,
                  "expected int64 ids, one for each box");
  return as_contiguous(*ids);
}

inline const int64_t* pointer(const std::optional<Tensor>& ids) {
  return ids ? data<int64_t>(*ids) : nullptr;
}

// True when none is NaN.
template <class T>
bool are_numbers(const T* values, int64_t n) {
  bool valid = true;
  for (int64_t i = 0; i < n; ++i) valid &= values[i] == values[i];
  return valid;
}

}  // namespace cvlib
