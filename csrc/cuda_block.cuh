// Sums of a block's threads in a fixed order.
#pragma once

#include "../cuda_launch.cuh"

namespace cvlib {

// The sum over the kThreads threads of a block, in all of them. May be called again and again.
template <class T>
__device__ T tree_sum(T value) {
  __shared__ T partial[kThreads];
  __syncthreads();  // of an earlier call, everyone has read
  partial[threadIdx.x] = value;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < width) partial[threadIdx.x] += partial[threadIdx.x + width];
  }
  __syncthreads();
  return partial[0];
}

}  // namespace cvlib
