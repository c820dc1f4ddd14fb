// Matching of anchors to ground truths, for one image on the CPU.
//
// First every ground truth claims an anchor: repeatedly the largest IoU in the matrix (ties: the
// lowest anchor, then the lowest ground truth) claims its row and column, even if it is 0. Then
// every other anchor takes its best ground truth (ties: the lowest) if IoU >= threshold.
//
// Cost: one IoU per anchor and ground truth. The matrix of one image is kept, so that a ground
// truth whose best anchor was claimed by another can search again.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "../box_soa.h"

namespace cvlib {

template <class T>
struct Best {
  T iou;
  int64_t anchor;
};

// IoU of one ground truth with all anchors, and the running best ground truth of each anchor.
template <class T>
void fill_column(const Box<T>& gt, int32_t gt_index, const BoxArrays<T>& anchors,
                 T* __restrict column, T* __restrict best_iou, int32_t* __restrict best_gt) {
  const T gt_area = area(gt);
  const T* __restrict x1 = anchors.x1;
  const T* __restrict y1 = anchors.y1;
  const T* __restrict x2 = anchors.x2;
  const T* __restrict y2 = anchors.y2;
  const T* __restrict areas = anchors.areas;
  const int64_t n = anchors.size;
  for (int64_t a = 0; a < n; ++a) {
    const T value = iou(gt, gt_area, Box<T>{x1[a], y1[a], x2[a], y2[a]}, areas[a]);
    const bool better = value > best_iou[a];
    column[a] = value;
    best_iou[a] = better ? value : best_iou[a];
    best_gt[a] = better ? gt_index : best_gt[a];
  }
}

// Largest entry, lowest anchor among equals. Claimed anchors hold -1. Lanes have maxima of their
// own, because a single running maximum would not vectorise.
template <class T>
Best<T> best_of_column(const T* column, int64_t n) {
  constexpr int kLanes = 16;
  T lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = T(-1);
  int64_t a = 0;
  for (; a + kLanes <= n; a += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] = larger(lanes[l], column[a + l]);
  }
  T best = T(-1);
  for (int l = 0; l < kLanes; ++l) best = larger(best, lanes[l]);
  for (; a < n; ++a) best = larger(best, column[a]);
  for (a = 0; a < n && column[a] != best; ++a) {
  }
  return {best, a};
}

// Buffers of one thread, reused for all its images.
template <class T>
struct MatchScratch {
  std::vector<T> matrix, best_iou;
  std::vector<int32_t> best_gt;
  std::vector<Best<T>> best_anchor;
};

// matched[a] = index of the ground truth in 0..num_gt-1, or -1.
template <class T>
void match_image(const BoxArrays<T>& anchors, const Box<T>* gts, int64_t num_gt, T threshold,
                 MatchScratch<T>& scratch, int32_t* matched) {
  const int64_t n = anchors.size;
  scratch.matrix.resize(n * num_gt);
  scratch.best_iou.assign(n, T(-1));
  scratch.best_gt.assign(n, -1);
  scratch.best_anchor.resize(num_gt);
  T* matrix = scratch.matrix.data();
  for (int64_t g = 0; g < num_gt; ++g) {
    fill_column(gts[g], static_cast<int32_t>(g), anchors, matrix + g * n, scratch.best_iou.data(),
                scratch.best_gt.data());
    scratch.best_anchor[g] = best_of_column(matrix + g * n, n);
  }
  for (int64_t a = 0; a < n; ++a) {
    matched[a] = scratch.best_iou[a] >= threshold ? scratch.best_gt[a] : -1;
  }
  const int64_t rounds = num_gt < n ? num_gt : n;
  for (int64_t round = 0; round < rounds; ++round) {
    int64_t winner = -1;
    for (int64_t g = 0; g < num_gt; ++g) {
      const Best<T>& b = scratch.best_anchor[g];
      if (b.iou < T(0)) continue;
      const bool wins = winner < 0 || b.iou > scratch.best_anchor[winner].iou ||
                        (b.iou == scratch.best_anchor[winner].iou &&
                         b.anchor < scratch.best_anchor[winner].anchor);
      if (wins) winner = g;
    }
    const int64_t claimed = scratch.best_anchor[winner].anchor;
    matched[claimed] = static_cast<int32_t>(winner);
    scratch.best_anchor[winner].iou = T(-1);
    for (int64_t g = 0; g < num_gt; ++g) {
      matrix[g * n + claimed] = T(-1);
      Best<T>& b = scratch.best_anchor[g];
      if (b.iou >= T(0) && b.anchor == claimed) b = best_of_column(matrix + g * n, n);
    }
  }
}

}  // namespace cvlib
