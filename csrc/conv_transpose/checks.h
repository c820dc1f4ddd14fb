// Sizes from tensors, and the second line of defence: Python has already checked, with better
// messages.
#pragma once

#include <optional>

#include "../torch_compat.h"
#include "conv_shape.h"

namespace cvlib {

inline void check_conv_transpose(const Tensor& input, const Tensor& weight,
                                 const std::optional<Tensor>& bias, int64_t groups) {
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && groups > 0 &&
                      input.size(1) == weight.size(0) && weight.size(0) % groups == 0 &&
                      input.scalar_type() == weight.scalar_type(),
                  "conv_transpose2d: expected input (N, C, H, W) and weight (C, O, K, L)");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(1) * groups &&
                            bias->scalar_type() == weight.scalar_type()),
                  "conv_transpose2d: expected bias (O * groups,)");
}

inline void check_axis(const ConvAxis& a) {
  STD_TORCH_CHECK(a.input > 0 && a.kernel > 0 && a.stride > 0 && a.padding >= 0 && a.output > 0,
                  "conv_transpose2d: expected positive sizes and strides");
}

inline ConvAxis make_axis(int64_t input, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t output_padding) {
  const int64_t output = (input - 1) * stride - 2 * padding + kernel + output_padding;
  const ConvAxis axis{input, output, kernel, stride, padding};
  STD_TORCH_CHECK(output_padding >= 0, "conv_transpose2d: expected output_padding >= 0");
  check_axis(axis);
  return axis;
}

inline ConvShape make_conv_shape(const Tensor& input, const Tensor& weight, int64_t groups,
                                 const ConvAxis& y, const ConvAxis& x) {
  return {input.size(0), groups, weight.size(0) / groups, weight.size(1), y, x};
}

inline ConvShape make_gradient_shape(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                     int64_t groups, int64_t stride_h, int64_t stride_w,
                                     int64_t padding_h, int64_t padding_w) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == input.size(0) &&
                      grad.size(1) == weight.size(1) * groups &&
                      grad.scalar_type() == input.scalar_type(),
                  "conv_transpose2d_backward: expected grad with the shape of the output");
  const ConvAxis y{input.size(2), grad.size(2), weight.size(2), stride_h, padding_h};
  const ConvAxis x{input.size(3), grad.size(3), weight.size(3), stride_w, padding_w};
  check_axis(y);
  check_axis(x);
  return make_conv_shape(input, weight, groups, y, x);
}

}  // namespace cvlib
