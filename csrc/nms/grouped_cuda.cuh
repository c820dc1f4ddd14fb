// Groups of boxes on CUDA, one block per group. Shared by soft_nms and weighted_boxes_fusion.
//
// Positions are sorted so that the boxes of an image and label are adjacent. The number of groups
// stays on the device: a block is launched for every position, and those that are not at the start
// of a group end at once.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "../cuda_aten.cuh"
#include "../cuda_launch.cuh"
#include "arguments.h"

namespace cvlib {

template <class T>
__global__ void take_kernel(const T* __restrict__ values, const int64_t* __restrict__ indices,
                            int64_t n, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = values[indices[i]];
}

// values[indices], for values of type T.
template <class T>
Tensor take(const Tensor& values, const Tensor& indices, cudaStream_t stream) {
  const int64_t n = indices.size(0);
  const Tensor out = empty(values, {n}, values.scalar_type());
  if (n == 0) return out;
  take_kernel<T><<<blocks_for(n), kThreads, 0, stream>>>(data<T>(values), data<int64_t>(indices), n,
                                                         mutable_data<T>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

template <class Id>
__global__ void first_positions_kernel(Id n, Id* __restrict__ out) {
  const Id i = static_cast<Id>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = i;
}

// 0, 1, ..., n - 1 with n > 0.
inline Tensor first_positions(const Tensor& like, int64_t n, cudaStream_t stream) {
  const Tensor out = empty(like, {n}, ScalarType::Long);
  first_positions_kernel<<<blocks_for(n), kThreads, 0, stream>>>(n, mutable_data<int64_t>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

struct Grouped {
  const int64_t* order;   // input index at each position
  const int64_t* labels;  // by input index, or null
  const int64_t* images;
  int64_t n;

  __device__ bool are_grouped(int64_t a, int64_t b) const {
    const int64_t i = order[a], j = order[b];
    return (labels == nullptr || labels[i] == labels[j]) &&
           (images == nullptr || images[i] == images[j]);
  }

  __device__ bool starts(int64_t position) const {
    return position == 0 || !are_grouped(position - 1, position);
  }

  // End of the group that starts at `begin`. All threads of the block must call it.
  __device__ int64_t end(int64_t begin) const {
    for (int64_t base = begin;; base += blockDim.x) {
      const int64_t position = base + threadIdx.x;
      const bool inside = position < n && are_grouped(begin, position);
      const int count = __syncthreads_count(inside);
      if (count < static_cast<int>(blockDim.x)) return base + count;
    }
  }

  unsigned blocks() const {
    return labels == nullptr && images == nullptr ? 1u : static_cast<unsigned>(n);
  }
};

// Sorts positions by group; stable within a group.
inline Tensor group_positions(Tensor order, const std::optional<Tensor>& labels,
                              const std::optional<Tensor>& images, cudaStream_t stream) {
  for (const auto* ids : {&labels, &images}) {
    if (!ids->has_value()) continue;
    const Tensor sorted = sort_descending(take<int64_t>(**ids, order, stream)).second;
    order = take<int64_t>(order, sorted, stream);
  }
  return order;
}

// A value and its position. The greatest value wins, among equals the lowest position.
template <class T>
struct Placed {
  T value;
  int64_t position;
};

template <class T>
__device__ Placed<T> better(const Placed<T>& a, const Placed<T>& b) {
  return b.value > a.value || (b.value == a.value && b.position < a.position) ? b : a;
}

template <class T>
__device__ Placed<T> best_of_warp(Placed<T> own) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Placed<T> other{__shfl_xor_sync(kFullWarp, own.value, step),
                          __shfl_xor_sync(kFullWarp, own.position, step)};
    own = better(own, other);
  }
  return own;
}

// The best value of the block, returned to all threads. The block must consist of whole warps.
template <class T>
__device__ Placed<T> best_of_block(Placed<T> own) {
  __shared__ Placed<T> warp_best[kWarp];
  __shared__ Placed<T> block_best;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int warps = blockDim.x / kWarp;
  own = best_of_warp(own);
  if (lane == 0) warp_best[warp] = own;
  __syncthreads();
  if (warp == 0) {
    own = best_of_warp(warp_best[lane < warps ? lane : 0]);
    if (lane == 0) block_best = own;
  }
  __syncthreads();
  return block_best;
}

}  // namespace cvlib
