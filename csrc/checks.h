// The second line of defence: Python has already checked, with better error messages.
#pragma once

#include "torch_compat.h"

namespace cvlib {

inline void check_boxes(const Tensor& boxes, int64_t dim) {
  STD_TORCH_CHECK(boxes.dim() == dim && boxes.size(dim - 1) == 4,
                  "expected boxes with last dimension 4");
}

inline void check_same_dtype(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "expected tensors of equal dtype");
}

inline void check_iou_gradient(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  check_boxes(boxes1, 2);
  check_boxes(boxes2, 2);
  check_same_dtype(boxes1, boxes2);
  STD_TORCH_CHECK(
      grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0),
      "box_iou_backward: expected grad of shape (N, M)");
}

inline void check_pairs(const Tensor& boxes1, const Tensor& boxes2) {
  check_same_dtype(boxes1, boxes2);
  STD_TORCH_CHECK(boxes1.dim() > 0 && boxes1.size(boxes1.dim() - 1) == 4 &&
                      boxes1.sizes().equals(boxes2.sizes()),
                  "expected boxes of equal shape (..., 4)");
}

inline void check_pair_gradient(const Tensor& grad, const Tensor& boxes) {
  check_same_dtype(grad, boxes);
  STD_TORCH_CHECK(4 * grad.numel() == boxes.numel(),
                  "paired_iou_backward: expected one gradient per pair");
}

template <class T>
bool has_no_nan(const T* values, int64_t n) {
  bool valid = true;
  for (int64_t i = 0; i < n; ++i) valid &= values[i] == values[i];
  return valid;
}

// The message is a signal: cvlib/_checks.py recognises it and searches for the tensor and index.
inline void check_values(bool valid) {
  STD_TORCH_CHECK(valid,
                  "cvlib: bad values (NaN, or a corner order other than x1 <= x2, y1 <= y2)");
}

}  // namespace cvlib
