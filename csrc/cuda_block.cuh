// Sums and counts over the threads of a block, in a fixed order. All threads must take part.
#pragma once

#include "cuda_launch.cuh"

namespace cvlib {

// Sums each row of `partial`, one number per thread, into its first element.
template <int kRows, class T>
__device__ void sum_rows(T (&partial)[kRows][kThreads]) {
  for (int width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < width) {
      for (int r = 0; r < kRows; ++r) partial[r][threadIdx.x] += partial[r][threadIdx.x + width];
    }
  }
  __syncthreads();
}

// Sum over the kThreads threads of a block, returned to all of them. May be called repeatedly.
template <class T>
__device__ T tree_sum(T value) {
  __shared__ T partial[1][kThreads];
  __syncthreads();  // every thread has read the result of an earlier call
  partial[0][threadIdx.x] = value;
  sum_rows(partial);
  return partial[0][0];
}

// Number of threads with a set flag before this one; `total` receives their number in the block.
template <class Count>
__device__ Count count_before(bool flag, Count& total) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ Count per_warp[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const unsigned votes = __ballot_sync(kFullWarp, flag);
  if (lane == 0) per_warp[warp] = __popc(votes);
  __syncthreads();
  Count before = __popc(votes & ((1u << lane) - 1));
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += per_warp[w];
    total += per_warp[w];
  }
  __syncthreads();
  return before;
}

}  // namespace cvlib
