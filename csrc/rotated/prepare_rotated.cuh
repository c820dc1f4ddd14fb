// Rotated boxes prepared for the kernels: sine, cosine and extents are computed once per box.
#pragma once

#include "../cuda_launch.cuh"
#include "rotated_math.h"

namespace cvlib {

constexpr int64_t kFieldsOfRotated = sizeof(RotatedBox) / sizeof(double);

// False if the upright bounding boxes are disjoint, so that the IoU is 0.
__device__ inline bool are_near(const RotatedBox& a, const RotatedBox& b) {
  return std::abs(a.x - b.x) < a.extent_x + b.extent_x &&
         std::abs(a.y - b.y) < a.extent_y + b.extent_y;
}

namespace {

template <class T>
__global__ void prepare_kernel(const T* __restrict__ boxes, int64_t n,
                               RotatedBox* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = read_rotated_box(boxes + 5 * i);
}

}  // namespace

inline const RotatedBox* prepared(const Tensor& boxes) {
  return reinterpret_cast<const RotatedBox*>(boxes.const_data_ptr());
}

// Shape (N, 10), float64: an array of RotatedBox.
inline Tensor prepare_rotated(const Tensor& boxes) {
  const int64_t n = boxes.size(0);
  const Tensor out = empty(boxes, {n, kFieldsOfRotated}, ScalarType::Double);
  if (n == 0) return out;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    prepare_kernel<T><<<blocks_for(n), kThreads, 0, current_stream(boxes)>>>(
        data<T>(boxes), n, reinterpret_cast<RotatedBox*>(out.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace cvlib
