// Transposed convolution with large strides and its gradients on the CPU. Algorithms and costs:
// forward_cpu.h, input_gradient_cpu.h, weight_gradient_cpu.h.
#include <optional>
#include <tuple>

#include "../parallel.h"
#include "../torch_compat.h"
#include "checks.h"
#include "forward_cpu.h"
#include "input_gradient_cpu.h"
#include "weight_gradient_cpu.h"

namespace cvlib {
namespace {

Tensor conv_transpose2d_cpu(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                            int64_t padding_h, int64_t padding_w, int64_t output_padding_h,
                            int64_t output_padding_w, int64_t groups) {
  check_conv_transpose(input, weight, bias, groups);
  const ConvShape s = make_conv_shape(
      input, weight, groups,
      make_axis(input.size(2), weight.size(2), stride_h, padding_h, output_padding_h),
      make_axis(input.size(3), weight.size(3), stride_w, padding_w, output_padding_w));
  Tensor out =
      empty(input, {s.batch, s.groups * s.outputs, s.y.output, s.x.output}, input.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor values = as_contiguous(input), taps = as_contiguous(weight);
  const Tensor biases = bias ? as_contiguous(*bias) : taps;
  dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    conv_transpose_forward(data<T>(values), data<T>(taps), bias ? data<T>(biases) : nullptr, s,
                           mutable_data<T>(out));
  });
  return out;
}

std::tuple<Tensor, Tensor> conv_transpose2d_backward_cpu(const Tensor& grad, const Tensor& input,
                                                         const Tensor& weight, int64_t stride_h,
                                                         int64_t stride_w, int64_t padding_h,
                                                         int64_t padding_w, int64_t groups,
                                                         bool need_input, bool need_weight) {
  check_conv_transpose(input, weight, std::nullopt, groups);
  const ConvShape s =
      make_gradient_shape(grad, input, weight, groups, stride_h, stride_w, padding_h, padding_w);
  Tensor grad_input = need_input ? torch::stable::new_empty(input, input.sizes())
                                 : empty(input, {0}, input.scalar_type());
  Tensor grad_weight = need_weight ? torch::stable::new_empty(weight, weight.sizes())
                                   : empty(weight, {0}, weight.scalar_type());
  const Tensor values = as_contiguous(input), taps = as_contiguous(weight);
  const Tensor grads = as_contiguous(grad);
  dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (grad_input.numel() != 0) {
      conv_transpose_input_gradient(data<T>(grads), data<T>(taps), s, mutable_data<T>(grad_input));
    }
    if (grad_weight.numel() != 0) {
      conv_transpose_weight_gradient(data<T>(grads), data<T>(values), s,
                                     mutable_data<T>(grad_weight));
    }
  });
  return {grad_input, grad_weight};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("conv_transpose2d", TORCH_BOX(&cvlib::conv_transpose2d_cpu));
  m.impl("conv_transpose2d_backward", TORCH_BOX(&cvlib::conv_transpose2d_backward_cpu));
}
