// Matching of anchors to ground truths on CUDA, by the rule of match_cpu.h.
//
// `claim_kernel`, one block per image: a warp per ground truth finds its best anchor; then in each
// round the largest IoU claims its anchor, and the other ground truths that had chosen this anchor
// search again. `fill_kernel`, one thread per anchor: the best ground truth of each unclaimed
// anchor. No IoU matrix is stored and nothing is atomic, so the result is deterministic. Work: two
// IoUs per anchor and ground truth, plus one pass over the anchors for each repeated search.
#pragma once

#include "../cuda_launch.cuh"
#include "ground_truth.h"

namespace cvlib {

// Padded ground truths: boxes (stride 4), or class and box (stride 5).
template <class T>
struct PaddedBoxes {
  const T* values;
  int64_t count;
  int stride;

  __device__ const T* row(int64_t image, int64_t g) const {
    return values + (image * count + g) * stride;
  }
  __device__ Box<T> box(int64_t image, int64_t g) const {
    return read_box(row(image, g) + (stride - 4));
  }
  __device__ bool is_valid(int64_t image, int64_t g) const {
    return stride == 4 ? !is_padding(box(image, g)) : row(image, g)[0] >= T(0);
  }
};

template <class T>
struct AnchorCandidate {
  T iou;  // below 0: none
  int64_t anchor;

  __device__ bool beats(const AnchorCandidate& other) const {
    return iou > other.iou || (iou == other.iou && anchor < other.anchor);
  }
};

constexpr int kClaimThreads = 512;

// The best unclaimed anchor of one ground truth, found by a warp and returned to every lane.
template <class T>
__device__ AnchorCandidate<T> find_best_anchor(const Box<T>& gt, const T* anchors,
                                               const int64_t* matched, int64_t num_anchors) {
  const T gt_area = area(gt);
  AnchorCandidate<T> best{T(-1), num_anchors};
  for (int64_t a = threadIdx.x % kWarp; a < num_anchors; a += kWarp) {
    if (matched[a] >= 0) continue;
    const Box<T> anchor = read_box(anchors + 4 * a);
    const AnchorCandidate<T> candidate{iou(gt, gt_area, anchor, area(anchor)), a};
    if (candidate.beats(best)) best = candidate;
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const AnchorCandidate<T> other{__shfl_xor_sync(kFullWarp, best.iou, offset),
                                   __shfl_xor_sync(kFullWarp, best.anchor, offset)};
    if (other.beats(best)) best = other;
  }
  return best;
}

// On entry `matched_all` is -1 everywhere; the kernel writes the claims.
template <class T>
__global__ void claim_kernel(const T* __restrict__ anchors, int64_t num_anchors, PaddedBoxes<T> gts,
                             AnchorCandidate<T>* best_of, int64_t* matched_all) {
  __shared__ int64_t winner, claimed;
  const int64_t image = blockIdx.x;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  AnchorCandidate<T>* best = best_of + image * gts.count;
  int64_t* matched = matched_all + image * num_anchors;
  for (int64_t g = warp; g < gts.count; g += warps) {
    AnchorCandidate<T> candidate{T(-1), num_anchors};
    if (gts.is_valid(image, g)) {
      candidate = find_best_anchor(gts.box(image, g), anchors, matched, num_anchors);
    }
    if (threadIdx.x % kWarp == 0) best[g] = candidate;
  }
  for (int64_t round = 0; round < gts.count; ++round) {
    __syncthreads();
    if (threadIdx.x == 0) {
      winner = -1;
      for (int64_t g = 0; g < gts.count; ++g) {
        if (best[g].iou >= T(0) && (winner < 0 || best[g].beats(best[winner]))) winner = g;
      }
      if (winner >= 0) {
        claimed = best[winner].anchor;
        matched[claimed] = winner;
        best[winner].iou = T(-1);
      }
    }
    __syncthreads();
    if (winner < 0) return;
    for (int64_t g = warp; g < gts.count; g += warps) {
      const AnchorCandidate<T> before = best[g];
      if (before.iou < T(0) || before.anchor != claimed) continue;
      const AnchorCandidate<T> candidate =
          find_best_anchor(gts.box(image, g), anchors, matched, num_anchors);
      __syncwarp();
      if (threadIdx.x % kWarp == 0) best[g] = candidate;
    }
  }
}

template <class T>
__global__ void fill_kernel(const T* __restrict__ anchors, int64_t num_anchors, PaddedBoxes<T> gts,
                            T threshold, int64_t* matched_all) {
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t image = blockIdx.y;
  if (a >= num_anchors) return;
  int64_t* matched = matched_all + image * num_anchors + a;
  if (*matched >= 0) return;
  const Box<T> anchor = read_box(anchors + 4 * a);
  const T anchor_area = area(anchor);
  T best = T(-1);
  int64_t best_gt = -1;
  for (int64_t g = 0; g < gts.count; ++g) {
    if (!gts.is_valid(image, g)) continue;
    const Box<T> gt = gts.box(image, g);
    const T value = iou(gt, area(gt), anchor, anchor_area);
    if (value > best) {
      best = value;
      best_gt = g;
    }
  }
  if (best >= threshold) *matched = best_gt;
}

// matched: (batch, num_anchors), -1 everywhere on entry.
template <class T>
void launch_match(const Tensor& anchors, PaddedBoxes<T> gts, int64_t batch, double iou_threshold,
                  const Tensor& matched, cudaStream_t stream) {
  const int64_t n = anchors.size(0);
  if (batch == 0 || n == 0 || gts.count == 0) return;
  STD_TORCH_CHECK(batch <= kMaxGrid, "match_anchors: at most 65535 images in one call");
  const int64_t bytes = batch * gts.count * static_cast<int64_t>(sizeof(AnchorCandidate<T>));
  const Tensor best = empty(anchors, {bytes}, ScalarType::Byte);
  claim_kernel<T><<<static_cast<unsigned>(batch), kClaimThreads, 0, stream>>>(
      data<T>(anchors), n, gts, static_cast<AnchorCandidate<T>*>(best.mutable_data_ptr()),
      mutable_data<int64_t>(matched));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  fill_kernel<T><<<dim3(blocks_for(n), static_cast<unsigned>(batch)), kThreads, 0, stream>>>(
      data<T>(anchors), n, gts, round_up<T>(iou_threshold), mutable_data<int64_t>(matched));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

inline Tensor unmatched(const Tensor& like, int64_t batch, int64_t n) {
  Tensor matched = empty(like, {batch, n}, ScalarType::Long);
  return torch::stable::fill_(matched, -1.0);
}

}  // namespace cvlib
