// Similarities of pairs of boxes on CUDA, and their gradients: one thread per pair.
#include <tuple>

#include "../checks.h"
#include "../cuda_launch.cuh"
#include "iou_math.h"

namespace cvlib {
namespace {

template <IouKind kKind, class T>
__global__ void paired_kernel(const T* __restrict__ a, const T* __restrict__ b, int64_t n,
                              T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = similarity<kKind>(measure_box<kKind>(read_box(a + 4 * i)),
                             measure_box<kKind>(read_box(b + 4 * i)));
}

template <IouKind kKind, class T>
__global__ void paired_gradient_kernel(const T* __restrict__ grads, const T* __restrict__ a,
                                       const T* __restrict__ b, int64_t n, T* __restrict__ grad_a,
                                       T* __restrict__ grad_b) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const Measured<T> first = measure_box<kKind>(read_box(a + 4 * i));
  const Measured<T> second = measure_box<kKind>(read_box(b + 4 * i));
  Box<T> to_first{0, 0, 0, 0}, to_second{0, 0, 0, 0};
  add_gradient<kKind>(grads[i], first, second, to_first);
  add_gradient<kKind>(grads[i], second, first, to_second);
  write_box(to_first, grad_a + 4 * i);
  write_box(to_second, grad_b + 4 * i);
}

Tensor paired_iou_cuda(const Tensor& boxes1, const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
  check_pairs(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.numel() / 4;
  const Sizes sizes = first.sizes();
  Tensor out = empty(first, Sizes(sizes.data(), sizes.size() - 1), first.scalar_type());
  if (n == 0) return out;
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_kind(kind, [&](auto chosen) {
      paired_kernel<decltype(chosen)::value><<<blocks_for(n), kThreads, 0, current_stream(first)>>>(
          data<T>(first), data<T>(second), n, mutable_data<T>(out));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> paired_iou_backward_cuda(const Tensor& grad, const Tensor& boxes1,
                                                    const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
  check_pairs(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_pair_gradient(grad_out, first);
  const int64_t n = first.numel() / 4;
  Tensor grad1 = empty(first, first.sizes(), first.scalar_type());
  Tensor grad2 = empty(first, first.sizes(), first.scalar_type());
  if (n == 0) return {grad1, grad2};
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_kind(kind, [&](auto chosen) {
      paired_gradient_kernel<decltype(chosen)::value>
          <<<blocks_for(n), kThreads, 0, current_stream(first)>>>(
              data<T>(grad_out), data<T>(first), data<T>(second), n, mutable_data<T>(grad1),
              mutable_data<T>(grad2));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return {grad1, grad2};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("paired_iou", TORCH_BOX(&cvlib::paired_iou_cuda));
  m.impl("paired_iou_backward", TORCH_BOX(&cvlib::paired_iou_backward_cuda));
}
