// Sigmoid focal loss and its gradient on CUDA: one thread per logit, bound by reading logits and
// targets once.
//
// Sums have two stages and a fixed order: threads of at most kMaxSumBlocks blocks add logits in
// strides, each block adds its threads as a tree, and one block adds the sums of the blocks, all in
// double. The number of blocks depends only on the size.
#include "../checks.h"
#include "../cuda_block.cuh"
#include "../cuda_launch.cuh"
#include "focal.h"
#include "focal_arguments.h"

namespace cvlib {
namespace {

constexpr int64_t kMaxSumBlocks = 1024;

template <class T>
struct FloatTargets {
  const T* values;

  __device__ FocalTerm<T> term(const T* x, int64_t i, const FocalSettings<T>& settings,
                               T& sign) const {
    sign = T(1);
    return soft_term(x[i], values[i], settings);
  }
};

template <class T>
struct ClassTargets {
  const int64_t* classes;
  int64_t columns;

  // A class out of range equals no column.
  __device__ FocalTerm<T> term(const T* x, int64_t i, const FocalSettings<T>& settings,
                               T& sign) const {
    const int64_t row = i / columns;
    const bool positive = classes[row] == i - row * columns;
    sign = positive ? T(-1) : T(1);
    return hard_term(sign * x[i], positive ? settings.positive : settings.negative);
  }
};

template <int kGamma, class T, class Targets>
__global__ void loss_kernel(const T* __restrict__ x, Targets targets, int64_t n,
                            FocalSettings<T> settings, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T sign;
  out[i] = focal_loss<kGamma>(targets.term(x, i, settings, sign), settings.gamma);
}

template <int kGamma, class T, class Targets>
__global__ void sum_kernel(const T* __restrict__ x, Targets targets, int64_t n,
                           FocalSettings<T> settings, double* __restrict__ sums) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    T sign;
    sum += focal_loss<kGamma>(targets.term(x, i, settings, sign), settings.gamma);
  }
  sum = tree_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__global__ void finish_sum_kernel(const double* __restrict__ sums, int count, double divisor,
                                  T* __restrict__ out) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  sum = tree_sum(sum);
  if (threadIdx.x == 0) *out = static_cast<T>(sum / divisor);
}

// `grad` has one number per input, or one for all (stride 0).
template <int kGamma, class T, class Targets>
__global__ void gradient_kernel(const T* __restrict__ x, Targets targets,
                                const T* __restrict__ grad, int64_t stride, T share, int64_t n,
                                FocalSettings<T> settings, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T sign;
  const FocalTerm<T> term = targets.term(x, i, settings, sign);
  out[i] = grad[i * stride] * share * sign * focal_gradient<kGamma>(term, settings.gamma);
}

Tensor sigmoid_focal_loss_cuda(const Tensor& inputs, const Tensor& targets, double alpha,
                               double gamma, int64_t reduction) {
  const DeviceGuard guard(inputs.get_device_index());
  const FocalArguments arguments(inputs, targets);
  const int64_t n = inputs.numel();
  const ScalarType type = arguments.inputs.scalar_type();
  const bool reduces = reduction != kNoReduction;
  Tensor out = reduces ? empty(arguments.inputs, {}, type) : empty_as(arguments.inputs);
  if (n == 0 && !reduces) return as_type(out, inputs.scalar_type());
  const cudaStream_t stream = current_stream(arguments.inputs);
  const int64_t blocks = smaller<int64_t>(blocks_for(n), kMaxSumBlocks);
  Tensor sums = empty(arguments.inputs, {reduces ? blocks : 0}, ScalarType::Double);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const FocalSettings<T> settings = focal_settings<T>(alpha, gamma, 1.0);
    const T* x = data<T>(arguments.inputs);
    T* result = mutable_data<T>(out);
    double* block_sums = mutable_data<double>(sums);
    if (n > 0) {
      dispatch_focal<FloatTargets<T>, ClassTargets<T>, T>(
          arguments, gamma, [&](auto constant, const auto& wanted) {
            constexpr int kGamma = decltype(constant)::value;
            if (reduces) {
              sum_kernel<kGamma><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
                  x, wanted, n, settings, block_sums);
            } else {
              loss_kernel<kGamma>
                  <<<blocks_for(n), kThreads, 0, stream>>>(x, wanted, n, settings, result);
            }
            STD_CUDA_KERNEL_LAUNCH_CHECK();
          });
    }
    if (!reduces) return;
    const double divisor = reduction == kMean ? static_cast<double>(n) : 1.0;
    finish_sum_kernel<T>
        <<<1, kThreads, 0, stream>>>(block_sums, static_cast<int>(blocks), divisor, result);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return as_type(out, inputs.scalar_type());
}

Tensor sigmoid_focal_loss_backward_cuda(const Tensor& grad, const Tensor& inputs,
                                        const Tensor& targets, double alpha, double gamma,
                                        int64_t reduction) {
  const DeviceGuard guard(inputs.get_device_index());
  const FocalArguments arguments(inputs, targets);
  const FocalGradient factor(grad, arguments.inputs, reduction);
  const int64_t n = inputs.numel();
  Tensor out = empty_as(arguments.inputs);
  if (n == 0) return as_type(out, inputs.scalar_type());
  dispatch_floating(arguments.inputs.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const FocalSettings<T> settings = focal_settings<T>(alpha, gamma, 1.0);
    dispatch_focal<FloatTargets<T>, ClassTargets<T>, T>(
        arguments, gamma, [&](auto constant, const auto& wanted) {
          gradient_kernel<decltype(constant)::value>
              <<<blocks_for(n), kThreads, 0, current_stream(arguments.inputs)>>>(
                  data<T>(arguments.inputs), wanted, data<T>(factor.values),
                  factor.is_shared ? int64_t{0} : int64_t{1}, static_cast<T>(factor.share), n,
                  settings, mutable_data<T>(out));
          STD_CUDA_KERNEL_LAUNCH_CHECK();
        });
  });
  return as_type(out, inputs.scalar_type());
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&cvlib::sigmoid_focal_loss_cuda));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&cvlib::sigmoid_focal_loss_backward_cuda));
}
