// Arguments of the focal loss, checked and made contiguous. Shared by the CPU and CUDA adapters.
#pragma once

#include <type_traits>

#include "../torch_compat.h"
#include "focal.h"

namespace cvlib {

// Values as in cvlib/ops/focal.py.
constexpr int64_t kNoReduction = 0;
constexpr int64_t kMean = 1;
constexpr int64_t kSum = 2;

// A result of the shape and dtype of `like`.
inline Tensor empty_as(const Tensor& like) { return empty(like, like.sizes(), like.scalar_type()); }

struct FocalArguments {
  Tensor inputs;    // contiguous, float32 or float64
  Tensor targets;   // shape and dtype of inputs, or int64 with one class per row
  int64_t columns;  // length of a row of inputs with one class; 0 for dense targets

  FocalArguments(const Tensor& logits, const Tensor& wanted)
      : inputs(as_real(logits)), targets(as_real(wanted)), columns(0) {
    if (targets.scalar_type() == ScalarType::Long) {
      const int64_t dim = inputs.dim();
      bool fits = dim > 0 && targets.dim() == dim - 1;
      for (int64_t d = 0; fits && d < dim - 1; ++d) fits = inputs.size(d) == targets.size(d);
      STD_TORCH_CHECK(fits, "sigmoid_focal_loss: expected one class per row of inputs");
      columns = larger<int64_t>(inputs.size(dim - 1), 1);
    } else {
      bool fits = inputs.dim() == targets.dim() && inputs.scalar_type() == targets.scalar_type();
      for (int64_t d = 0; fits && d < inputs.dim(); ++d) fits = inputs.size(d) == targets.size(d);
      STD_TORCH_CHECK(fits, "sigmoid_focal_loss: expected targets of the inputs' shape and dtype");
    }
  }

  // Only for tensors on the CPU.
  bool are_classes_valid() const {
    if (columns == 0) return true;
    const int64_t* classes = data<int64_t>(targets);
    const int64_t count = targets.numel(), limit = inputs.size(inputs.dim() - 1);
    bool valid = true;
    for (int64_t i = 0; i < count; ++i) valid &= (classes[i] >= -1) & (classes[i] < limit);
    return valid;
  }
};

// Gradient of the loss in the dtype of the computation: one number for all inputs, or one each.
struct FocalGradient {
  Tensor values;
  bool is_shared;
  double share;  // factor of the shared number for each input

  FocalGradient(const Tensor& grad, const Tensor& inputs, int64_t reduction)
      : values(grad), is_shared(reduction != kNoReduction), share(1.0) {
    if (reduction == kMean) share = 1.0 / static_cast<double>(inputs.numel());
    if (is_shared) {
      STD_TORCH_CHECK(grad.numel() == 1,
                      "sigmoid_focal_loss_backward: expected a grad of one number");
    } else {
      STD_TORCH_CHECK(grad.numel() == inputs.numel(),
                      "sigmoid_focal_loss_backward: expected grad of the inputs' shape");
      // The gradient of loss.sum() is one expanded number, which need not be written out.
      is_shared = grad.numel() > 0;
      for (int64_t d = 0; d < grad.dim(); ++d)
        is_shared &= grad.size(d) == 1 || grad.stride(d) == 0;
      while (is_shared && values.dim() > 0) values = torch::stable::select(values, 0, 0);
    }
    values = as_contiguous(as_type(values, inputs.scalar_type()));
  }
};

// Calls function(std::integral_constant<int, G>) with G 0, 1, 2 or kAnyGamma.
template <class Function>
void dispatch_gamma(double gamma, const Function& function) {
  if (gamma == 0) return function(std::integral_constant<int, 0>{});
  if (gamma == 1) return function(std::integral_constant<int, 1>{});
  if (gamma == 2) return function(std::integral_constant<int, 2>{});
  function(std::integral_constant<int, kAnyGamma>{});
}

// Calls function(gamma as a constant, targets) with FloatTargets or ClassTargets, the readers of
// the device's kernels.
template <class FloatTargets, class ClassTargets, class T, class Function>
void dispatch_focal(const FocalArguments& arguments, double gamma, const Function& function) {
  dispatch_gamma(gamma, [&](auto constant) {
    if (arguments.columns == 0) {
      function(constant, FloatTargets{data<T>(arguments.targets)});
    } else {
      function(constant, ClassTargets{data<int64_t>(arguments.targets), arguments.columns});
    }
  });
}

}  // namespace cvlib
