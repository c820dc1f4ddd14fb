// IoU of rotated boxes on CUDA, of all pairs of N and M boxes and of paired boxes, and gradients.
//
// Every box is prepared once (sine, cosine, extents). Then a thread owns one column and
// kRowsPerThread rows. It keeps its box of the second argument in registers; a row of threads
// shares its box of the first argument, which comes from the cache. Pairs whose upright bounding
// boxes are disjoint end early. One coalesced store per pair.
#include <tuple>

#include "../cuda_block.cuh"
#include "../cuda_launch.cuh"
#include "checks.h"
#include "prepare_rotated.cuh"
#include "rotated_gradient.h"

namespace cvlib {
namespace {

constexpr int kRowsPerThread = 8;

__device__ double iou_if_near(const RotatedBox& a, const RotatedBox& b) {
  return are_near(a, b) ? iou(a, b) : 0.0;
}

template <class T>
__global__ void iou_kernel(const RotatedBox* __restrict__ boxes1,
                           const RotatedBox* __restrict__ boxes2, int64_t n, int64_t m,
                           T* __restrict__ out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= m) return;
  const RotatedBox other = boxes2[j];
  const int64_t rows_per_block = static_cast<int64_t>(blockDim.y) * kRowsPerThread;
  const int64_t step = rows_per_block * gridDim.y;
  for (int64_t base = blockIdx.y * rows_per_block; base < n; base += step) {
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int64_t i = base + static_cast<int64_t>(r) * blockDim.y + threadIdx.y;
      if (i >= n) break;
      out[i * m + j] = static_cast<T>(iou_if_near(boxes1[i], other));
    }
  }
}

// One block per box: threads stride over the others, then a tree sum in shared memory, so that
// results are reproducible.
template <class T>
__global__ void gradient_kernel(const RotatedBox* __restrict__ boxes,
                                const RotatedBox* __restrict__ others,
                                const T* __restrict__ grad_out, int64_t num_others,
                                int64_t row_stride, int64_t column_stride,
                                T* __restrict__ grad_boxes) {
  __shared__ double partial[5][kThreads];
  const int64_t i = blockIdx.x;
  const RotatedBox box = boxes[i];
  RotatedGradient sum{0, 0, 0, 0, 0};
  for (int64_t j = threadIdx.x; j < num_others; j += kThreads) {
    const RotatedBox other = others[j];
    if (!are_near(box, other)) continue;
    const double grad = static_cast<double>(grad_out[i * row_stride + j * column_stride]);
    const RotatedGradient g = iou_gradient(box, other);
    sum.x += grad * g.x;
    sum.y += grad * g.y;
    sum.w += grad * g.w;
    sum.h += grad * g.h;
    sum.angle += grad * g.angle;
  }
  partial[0][threadIdx.x] = sum.x;
  partial[1][threadIdx.x] = sum.y;
  partial[2][threadIdx.x] = sum.w;
  partial[3][threadIdx.x] = sum.h;
  partial[4][threadIdx.x] = sum.angle;
  sum_rows(partial);
  if (threadIdx.x < 5) {
    grad_boxes[5 * i + threadIdx.x] = static_cast<T>(partial[threadIdx.x][0]);
  }
}

template <class T>
__global__ void paired_iou_kernel(const T* __restrict__ boxes1, const T* __restrict__ boxes2,
                                  int64_t n, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const RotatedBox a = read_rotated_box(boxes1 + 5 * i), b = read_rotated_box(boxes2 + 5 * i);
  out[i] = static_cast<T>(iou_if_near(a, b));
}

template <class T>
__device__ void write_gradient(double grad, const RotatedGradient& g, T* out) {
  out[0] = static_cast<T>(grad * g.x);
  out[1] = static_cast<T>(grad * g.y);
  out[2] = static_cast<T>(grad * g.w);
  out[3] = static_cast<T>(grad * g.h);
  out[4] = static_cast<T>(grad * g.angle);
}

template <class T>
__global__ void paired_gradient_kernel(const T* __restrict__ boxes1, const T* __restrict__ boxes2,
                                       const T* __restrict__ grad_out, int64_t n,
                                       T* __restrict__ grad1, T* __restrict__ grad2) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const RotatedBox a = read_rotated_box(boxes1 + 5 * i), b = read_rotated_box(boxes2 + 5 * i);
  const double grad = static_cast<double>(grad_out[i]);
  write_gradient(grad, iou_gradient(a, b), grad1 + 5 * i);
  write_gradient(grad, iou_gradient(b, a), grad2 + 5 * i);
}

Tensor box_iou_rotated_cuda(const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_boxes(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor out = empty(first, {n, m}, first.scalar_type());
  if (n == 0 || m == 0) return out;
  const Tensor a = prepare_rotated(first), b = prepare_rotated(second);
  const MatrixLaunch launch = launch_over_matrix(n, m, kRowsPerThread);
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    iou_kernel<T><<<launch.grid, launch.block, 0, current_stream(first)>>>(
        prepared(a), prepared(b), n, m, mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

template <class T>
void launch_gradient(const Tensor& boxes, const Tensor& others, const Tensor& grad,
                     int64_t row_stride, int64_t column_stride, Tensor& grad_boxes) {
  if (boxes.size(0) == 0) return;
  gradient_kernel<T><<<static_cast<unsigned>(boxes.size(0)), kThreads, 0, current_stream(boxes)>>>(
      prepared(boxes), prepared(others), data<T>(grad), others.size(0), row_stride, column_stride,
      mutable_data<T>(grad_boxes));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> box_iou_rotated_backward_cuda(const Tensor& grad, const Tensor& boxes1,
                                                         const Tensor& boxes2) {
  check_rotated_gradient(grad, boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor grad1 = empty(first, {n, 5}, first.scalar_type());
  Tensor grad2 = empty(second, {m, 5}, second.scalar_type());
  const Tensor a = prepare_rotated(first), b = prepare_rotated(second);
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_gradient<T>(a, b, grad_out, m, 1, grad1);
    launch_gradient<T>(b, a, grad_out, 1, m, grad2);
  });
  return {grad1, grad2};
}

Tensor paired_box_iou_rotated_cuda(const Tensor& boxes1, const Tensor& boxes2) {
  check_rotated_pairs(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const Sizes sizes = first.sizes();
  Tensor out = empty(first, sizes.slice(0, sizes.size() - 1), first.scalar_type());
  const int64_t n = out.numel();
  if (n == 0) return out;
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    paired_iou_kernel<T><<<blocks_for(n), kThreads, 0, current_stream(first)>>>(
        data<T>(first), data<T>(second), n, mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

std::tuple<Tensor, Tensor> paired_box_iou_rotated_backward_cuda(const Tensor& grad,
                                                                const Tensor& boxes1,
                                                                const Tensor& boxes2) {
  check_paired_rotated_gradient(grad, boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = grad_out.numel();
  Tensor grad1 = empty(first, first.sizes(), first.scalar_type());
  Tensor grad2 = empty(first, first.sizes(), first.scalar_type());
  if (n == 0) return {grad1, grad2};
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    paired_gradient_kernel<T><<<blocks_for(n), kThreads, 0, current_stream(first)>>>(
        data<T>(first), data<T>(second), data<T>(grad_out), n, mutable_data<T>(grad1),
        mutable_data<T>(grad2));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {grad1, grad2};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("box_iou_rotated", TORCH_BOX(&cvlib::box_iou_rotated_cuda));
  m.impl("box_iou_rotated_backward", TORCH_BOX(&cvlib::box_iou_rotated_backward_cuda));
  m.impl("paired_box_iou_rotated", TORCH_BOX(&cvlib::paired_box_iou_rotated_cuda));
  m.impl("paired_box_iou_rotated_backward",
         TORCH_BOX(&cvlib::paired_box_iou_rotated_backward_cuda));
}
