// The best match of each of N boxes among M others on CUDA, without the N x M matrix.
//
// A thread owns one box; the block reads the others through shared memory, kThreads at a time.
// Work: N x M IoUs; no memory besides the result.
#include <tuple>

#include "../checks.h"
#include "../cuda_launch.cuh"
#include "iou_math.h"

namespace cvlib {
namespace {

template <class T>
__global__ void max_iou_kernel(const T* __restrict__ boxes, const T* __restrict__ others, int64_t n,
                               int64_t m, T* __restrict__ values, int64_t* __restrict__ indices) {
  __shared__ Box<T> tile[kThreads];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Box<T> own = i < n ? read_box(boxes + 4 * i) : Box<T>{0, 0, 0, 0};
  const T own_area = area(own);
  T best = 0;
  int64_t index = m > 0 ? 0 : -1;
  for (int64_t start = 0; start < m; start += kThreads) {
    if (start + threadIdx.x < m) tile[threadIdx.x] = read_box(others + 4 * (start + threadIdx.x));
    __syncthreads();
    const int count = static_cast<int>(m - start < kThreads ? m - start : kThreads);
    for (int k = 0; k < count; ++k) {
      const T candidate = iou(own, own_area, tile[k], area(tile[k]));
      if (candidate > best) {
        best = candidate;
        index = start + k;
      }
    }
    __syncthreads();
  }
  if (i >= n) return;
  values[i] = best;
  indices[i] = index;
}

std::tuple<Tensor, Tensor> max_iou_cuda(const Tensor& boxes1, const Tensor& boxes2) {
  check_boxes(boxes1, 2);
  check_boxes(boxes2, 2);
  check_same_dtype(boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0);
  Tensor values = empty(first, {n}, first.scalar_type());
  Tensor indices = empty(first, {n}, ScalarType::Long);
  if (n == 0) return {values, indices};
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    max_iou_kernel<T><<<blocks_for(n), kThreads, 0, current_stream(first)>>>(
        data<T>(first), data<T>(second), n, second.size(0), mutable_data<T>(values),
        mutable_data<int64_t>(indices));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {values, indices};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) { m.impl("max_iou", TORCH_BOX(&cvlib::max_iou_cuda)); }
