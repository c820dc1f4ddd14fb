// Greedy non-maximum suppression on CUDA of boxes that are already sorted, best first; a batch of
// images with equally many boxes, each on its own (blockIdx.y is the image).
//
// Boxes are taken in tiles, best first. `resolve_tile` decides inside one tile: all pairs in
// parallel into a bit mask in shared memory, then one warp walks the boxes in order.
// `suppress_later` drops the boxes behind the tile that overlap one it kept, all in parallel. Work:
// kept x N pairs; memory: linear in N (no N x N bit mask); no host synchronisation.
//
// The algorithm does not depend on the shape of the boxes: a Rule, such as UprightRule below, names
// their type, reads them and decides which pairs overlap.
#pragma once

#include "../box_math.h"
#include "../cuda_launch.cuh"

namespace cvlib {

template <class T>
struct UprightRule {
  using BoxType = Box<T>;
  static constexpr int kFields = 4;  // of a row of the input
  // In shared memory: 32 KB of mask and 8 KB of boxes in float; in double half the tile.
  static constexpr int kTile = sizeof(T) == 4 ? 512 : 256;

  T threshold;

  static __device__ BoxType read(const T* row) { return read_box(row); }
  static __device__ bool row_has_nan(const T* row) { return has_nan(read_box(row)); }
  // A cheap bound, tested before labels are read from memory.
  __device__ bool may_overlap(const BoxType&, const BoxType&) const { return true; }
  __device__ bool overlap(const BoxType& a, const BoxType& b) const {
    return overlaps(a, area(a), b, area(b), threshold);
  }
};

template <class Rule>
struct NmsProblem {
  using BoxType = typename Rule::BoxType;

  const BoxType* boxes;   // (batch, n), best first
  const int64_t* labels;  // (batch, n) or null: boxes of different labels ignore each other
  const int64_t* images;  // (batch, n) or null: in the same way
  uint8_t* removed;       // (batch, n): on entry 1 for boxes that take no part (NaN)
  uint8_t* keep;          // (batch, n): the result, 0 on entry
  int32_t* tile_kept;     // (batch, kTile): boxes kept in the current tile
  int32_t* tile_count;    // (batch): number of boxes in tile_kept
  int64_t* total;         // (batch): boxes kept so far
  int64_t n;
  int64_t max_total;  // stop at this many kept boxes
  Rule rule;
};

template <class Rule>
__device__ bool suppresses(const NmsProblem<Rule>& p, int64_t i, int64_t j,
                           const typename Rule::BoxType& a, const typename Rule::BoxType& b) {
  if (!p.rule.may_overlap(a, b)) return false;
  if (p.labels != nullptr && p.labels[i] != p.labels[j]) return false;
  if (p.images != nullptr && p.images[i] != p.images[j]) return false;
  return p.rule.overlap(a, b);
}

template <class Rule>
__global__ void resolve_tile(NmsProblem<Rule> p, int64_t begin) {
  constexpr int kTile = Rule::kTile;
  constexpr int kWords = kTile / 32;
  __shared__ uint32_t mask[kTile][kWords];
  __shared__ typename Rule::BoxType boxes[kTile];
  __shared__ uint32_t dead[kWords];
  const int64_t image = blockIdx.y, base = image * p.n + begin;
  const int64_t left = p.n - begin;
  const int count = left < kTile ? static_cast<int>(left) : kTile;
  const int t = threadIdx.x;

  if (t < kWords) dead[t] = 0;
  if (t < count) boxes[t] = p.boxes[base + t];
  __syncthreads();
  const bool is_dead = t >= count || p.removed[base + t];
  if (is_dead) atomicOr(&dead[t / 32], 1u << (t % 32));
  for (int w = 0; w < kWords; ++w) {
    uint32_t bits = 0;
    for (int b = 0; b < 32 && !is_dead; ++b) {
      const int other = 32 * w + b;
      if (other > t && other < count &&
          suppresses(p, base + t, base + other, boxes[t], boxes[other])) {
        bits |= 1u << b;
      }
    }
    mask[t][w] = bits;
  }
  __syncthreads();
  if (t >= kWarp) return;

  uint32_t gone = t < kWords ? dead[t] : ~0u;  // lane w owns word w
  int64_t total = p.total[image];
  int kept = 0;
  for (int i = 0; i < count && total < p.max_total; ++i) {
    const uint32_t word = __shfl_sync(kFullWarp, gone, i / 32);
    if ((word >> (i % 32)) & 1u) continue;
    if (t < kWords) gone |= mask[i][t];
    if (t == 0) {
      p.keep[base + i] = 1;
      p.tile_kept[image * kTile + kept] = i;
    }
    ++kept;
    ++total;
  }
  if (t == 0) {
    p.tile_count[image] = kept;
    p.total[image] = total;
  }
}

template <class Rule>
__global__ void suppress_later(NmsProblem<Rule> p, int64_t begin) {
  constexpr int kTile = Rule::kTile;
  __shared__ typename Rule::BoxType kept[kTile];
  const int64_t image = blockIdx.y, base = image * p.n;
  if (p.total[image] >= p.max_total) return;
  const int count = p.tile_count[image];
  const int32_t* kept_in_tile = p.tile_kept + image * kTile;
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    kept[k] = p.boxes[base + begin + kept_in_tile[k]];
  }
  __syncthreads();
  const int64_t j = begin + kTile + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= p.n || p.removed[base + j]) return;
  const typename Rule::BoxType box = p.boxes[base + j];
  for (int k = 0; k < count; ++k) {
    if (suppresses(p, base + begin + kept_in_tile[k], base + j, kept[k], box)) {
      p.removed[base + j] = 1;
      return;
    }
  }
}

// Fills p.keep. `like` gives device and allocator; batch is at most kMaxGrid.
template <class Rule>
void launch_nms(NmsProblem<Rule> p, int64_t batch, const Tensor& like, cudaStream_t stream) {
  constexpr int kTile = Rule::kTile;
  const Tensor tile_kept = empty(like, {batch, kTile}, ScalarType::Int);
  const Tensor tile_count = zeros(like, {batch}, ScalarType::Int);
  const Tensor total = zeros(like, {batch}, ScalarType::Long);
  p.tile_kept = mutable_data<int32_t>(tile_kept);
  p.tile_count = mutable_data<int32_t>(tile_count);
  p.total = mutable_data<int64_t>(total);
  const unsigned images = static_cast<unsigned>(batch);
  for (int64_t begin = 0; begin < p.n; begin += kTile) {
    resolve_tile<Rule><<<dim3(1, images), kTile, 0, stream>>>(p, begin);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const int64_t later = p.n - begin - kTile;
    if (later <= 0) break;
    suppress_later<Rule><<<dim3(blocks_for(later), images), kThreads, 0, stream>>>(p, begin);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace cvlib
