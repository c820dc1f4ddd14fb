// The second line of defence for masks: Python has already checked, with better messages.
#pragma once

#include "../checks.h"

namespace cvlib {

inline void check_paste(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width) {
  check_boxes(boxes, 2);
  STD_TORCH_CHECK(masks.dim() == 3 && masks.size(0) == boxes.size(0),
                  "expected masks of shape (N, h, w) and boxes of shape (N, 4)");
  STD_TORCH_CHECK(masks.size(0) == 0 || (masks.size(1) > 0 && masks.size(2) > 0),
                  "expected masks of at least one pixel");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "expected an image size of at least 0");
}

inline void check_paste_gradient(const Tensor& grad, const Tensor& boxes, int64_t mask_height,
                                 int64_t mask_width) {
  check_boxes(boxes, 2);
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == boxes.size(0),
                  "expected grad of shape (N, H, W) and boxes of shape (N, 4)");
  STD_TORCH_CHECK(mask_height >= 0 && mask_width >= 0, "expected a mask size of at least 0");
}

inline void check_masks(const Tensor& masks) {
  STD_TORCH_CHECK(masks.dim() == 3, "expected masks of shape (N, H, W)");
}

inline void check_binary_masks(const Tensor& masks) {
  check_masks(masks);
  STD_TORCH_CHECK(
      masks.scalar_type() == ScalarType::Bool || masks.scalar_type() == ScalarType::Byte,
      "expected masks of dtype bool or uint8");
}

inline void check_mask_pairs(const Tensor& masks1, const Tensor& masks2,
                             const std::optional<Tensor>& is_crowd) {
  check_binary_masks(masks1);
  check_binary_masks(masks2);
  STD_TORCH_CHECK(masks1.size(1) == masks2.size(1) && masks1.size(2) == masks2.size(2),
                  "expected masks of equal height and width");
  STD_TORCH_CHECK(!is_crowd || (is_crowd->dim() == 1 && is_crowd->size(0) == masks2.size(0) &&
                                is_crowd->scalar_type() == ScalarType::Bool),
                  "expected is_crowd of shape (M,) and dtype bool");
}

}  // namespace cvlib
