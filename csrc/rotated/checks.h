// The second line of defence for rotated boxes: Python has already checked, with better messages.
#pragma once

#include "../checks.h"

namespace cvlib {

inline void check_rotated_boxes(const Tensor& boxes) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5, "expected rotated boxes of shape (N, 5)");
}

inline void check_rotated_boxes(const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_boxes(boxes1);
  check_rotated_boxes(boxes2);
  check_same_dtype(boxes1, boxes2);
}

// Paired boxes of shape (..., 5).
inline void check_rotated_pairs(const Tensor& boxes1, const Tensor& boxes2) {
  check_same_dtype(boxes1, boxes2);
  const int64_t dim = boxes1.dim();
  STD_TORCH_CHECK(dim > 0 && boxes1.size(dim - 1) == 5 && boxes1.sizes().equals(boxes2.sizes()),
                  "expected rotated boxes of equal shape (..., 5)");
}

inline void check_rotated_gradient(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_boxes(boxes1, boxes2);
  STD_TORCH_CHECK(
      grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0),
      "box_iou_rotated_backward: expected grad of shape (N, M)");
}

inline void check_paired_rotated_gradient(const Tensor& grad, const Tensor& boxes1,
                                          const Tensor& boxes2) {
  check_rotated_pairs(boxes1, boxes2);
  STD_TORCH_CHECK(grad.numel() * 5 == boxes1.numel(),
                  "paired_box_iou_rotated_backward: expected grad of shape (...)");
}

}  // namespace cvlib
