// Pairwise similarities of N and M boxes on CUDA, and their gradients.
//
// A thread owns one column and kRowsPerThread rows. It reads its box of the second argument once;
// a row of threads shares its box of the first argument, which comes from the cache. One coalesced
// store per pair: the kernel is bound by writing the result.
#include <tuple>

#include "../checks.h"
#include "../cuda_block.cuh"
#include "../cuda_launch.cuh"
#include "iou_math.h"

namespace cvlib {
namespace {

constexpr int kRowsPerThread = 8;

template <IouKind kKind, class T>
__global__ void similarity_kernel(const T* __restrict__ boxes1, const T* __restrict__ boxes2,
                                  int64_t n, int64_t m, T* __restrict__ out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= m) return;
  const Measured<T> other = measure_box<kKind>(read_box(boxes2 + 4 * j));
  const int64_t rows_per_block = static_cast<int64_t>(blockDim.y) * kRowsPerThread;
  const int64_t step = rows_per_block * gridDim.y;
  for (int64_t base = blockIdx.y * rows_per_block; base < n; base += step) {
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int64_t i = base + static_cast<int64_t>(r) * blockDim.y + threadIdx.y;
      if (i >= n) break;
      out[i * m + j] = similarity<kKind>(measure_box<kKind>(read_box(boxes1 + 4 * i)), other);
    }
  }
}

// One block per box: threads stride over the others, then a tree sum in shared memory, so that
// results are reproducible.
template <IouKind kKind, class T>
__global__ void gradient_kernel(const T* __restrict__ boxes, const T* __restrict__ others,
                                const T* __restrict__ grad_out, int64_t num_others,
                                int64_t row_stride, int64_t column_stride,
                                T* __restrict__ grad_boxes) {
  __shared__ T partial[4][kThreads];
  const int64_t i = blockIdx.x;
  const Measured<T> own = measure_box<kKind>(read_box(boxes + 4 * i));
  Box<T> sum{0, 0, 0, 0};
  for (int64_t j = threadIdx.x; j < num_others; j += kThreads) {
    add_gradient<kKind>(grad_out[i * row_stride + j * column_stride], own,
                        measure_box<kKind>(read_box(others + 4 * j)), sum);
  }
  partial[0][threadIdx.x] = sum.x1;
  partial[1][threadIdx.x] = sum.y1;
  partial[2][threadIdx.x] = sum.x2;
  partial[3][threadIdx.x] = sum.y2;
  sum_rows(partial);
  if (threadIdx.x < 4) grad_boxes[4 * i + threadIdx.x] = partial[threadIdx.x][0];
}

Tensor box_iou_cuda(const Tensor& boxes1, const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
  check_boxes(boxes1, 2);
  check_boxes(boxes2, 2);
  check_same_dtype(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor out = empty(first, {n, m}, first.scalar_type());
  if (n == 0 || m == 0) return out;
  const MatrixLaunch launch = launch_over_matrix(n, m, kRowsPerThread);
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_kind(kind, [&](auto chosen) {
      similarity_kernel<decltype(chosen)::value>
          <<<launch.grid, launch.block, 0, current_stream(first)>>>(data<T>(first), data<T>(second),
                                                                    n, m, mutable_data<T>(out));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return out;
}

template <IouKind kKind, class T>
void launch_gradient(const Tensor& boxes, const Tensor& others, const Tensor& grad,
                     int64_t row_stride, int64_t column_stride, Tensor& grad_boxes) {
  if (boxes.size(0) == 0) return;
  gradient_kernel<kKind>
      <<<static_cast<unsigned>(boxes.size(0)), kThreads, 0, current_stream(boxes)>>>(
          data<T>(boxes), data<T>(others), data<T>(grad), others.size(0), row_stride, column_stride,
          mutable_data<T>(grad_boxes));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> box_iou_backward_cuda(const Tensor& grad, const Tensor& boxes1,
                                                 const Tensor& boxes2, int64_t kind) {
  check_kind(kind);
  check_iou_gradient(grad, boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2), grad_out = as_real(grad);
  check_same_dtype(first, grad_out);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor grad1 = empty(first, {n, 4}, first.scalar_type());
  Tensor grad2 = empty(second, {m, 4}, second.scalar_type());
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_kind(kind, [&](auto chosen) {
      constexpr IouKind kKind = decltype(chosen)::value;
      launch_gradient<kKind, T>(first, second, grad_out, m, 1, grad1);
      launch_gradient<kKind, T>(second, first, grad_out, 1, m, grad2);
    });
  });
  return {grad1, grad2};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("box_iou", TORCH_BOX(&cvlib::box_iou_cuda));
  m.impl("box_iou_backward", TORCH_BOX(&cvlib::box_iou_backward_cuda));
}
