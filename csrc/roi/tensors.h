// Layouts, dtypes and checks of the tensors. Shared by the CPU and CUDA adapters.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>

#include "../torch_compat.h"

namespace cvlib {

// Channels-last without gaps, because the kernels compute the strides. csrc/upsample has a wider
// rule under another name: the linker would merge functions of one name.
inline bool is_dense_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.is_contiguous()) return false;
  const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  const auto fits = [&](int64_t dim, int64_t stride) {
    return tensor.size(dim) == 1 || tensor.stride(dim) == stride;
  };
  return fits(1, 1) && fits(3, c) && fits(2, w * c) && fits(0, h * w * c);
}

// A float32 or float64 tensor, contiguous or channels-last.
inline Tensor as_dense(const Tensor& tensor) {
  const Tensor real = is_half(tensor) ? torch::stable::to(tensor, ScalarType::Float) : tensor;
  return real.is_contiguous() || is_dense_channels_last(real) ? real
                                                              : torch::stable::contiguous(real);
}

inline ScalarType real_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty_map(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w,
                        ScalarType type, bool channels_last) {
  return channels_last ? empty_channels_last(like, n, c, h, w, type)
                       : empty(like, {n, c, h, w}, type);
}

inline void check_roi_arguments(const Tensor& features, const Tensor& regions, int64_t bins_y,
                                int64_t bins_x) {
  STD_TORCH_CHECK(features.dim() == 4, "expected maps of shape (N, C, H, W)");
  STD_TORCH_CHECK(regions.dim() == 2 && regions.size(1) == 5, "expected regions of shape (K, 5)");
  STD_TORCH_CHECK(bins_y > 0 && bins_x > 0, "expected a positive output size");
}

// argmax holds 32-bit indices of pixels, as in torchvision.
inline void check_plane(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height * width <= INT32_MAX, "expected maps of fewer than 2^31 pixels");
}

inline void check_argmax(const Tensor& grad, const Tensor& argmax, const Tensor& regions) {
  STD_TORCH_CHECK(argmax.scalar_type() == ScalarType::Int && argmax.dim() == 4 &&
                      argmax.numel() == grad.numel() && grad.size(0) == regions.size(0),
                  "roi_pool_backward: expected grad and argmax of shape (K, C, PH, PW)");
}

}  // namespace cvlib
