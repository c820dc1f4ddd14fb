// Greedy non-maximum suppression of rotated boxes that are already sorted, best first, in one
// group.
//
// A kept box visits only the boxes near it (rotated_grid.h). A vectorised loop excludes those whose
// IoU cannot exceed the threshold, because areas differ too much or upright bounding boxes overlap
// too little. The remaining pairs get the exact IoU, vectorised too. The search decides nothing: it
// excludes only pairs whose IoU, as rotated_math.h computes it, is not above the threshold. For
// boxes of similar size the cost is about O(n) instead of O(n x kept).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "rotated_grid.h"

namespace cvlib {

// How far beyond the extent of a box the centre of another may lie, as a share of the other's
// extent, if their IoU exceeds the threshold. Consider the line that bounds the box on one side, at
// distance d from the other's centre, where the other's extent in this direction is e. At most (1 -
// d / e) / 2 of the other's area lies beyond the line (the most if the line is parallel to a side),
// and the IoU is below that share. For boxes so long that rounding could matter, extents must touch
// (share 1).
inline double share_of_extent(const RotatedArrays& boxes, double threshold) {
  constexpr double kLongest = 1e5;
  bool is_long = false;
  for (int64_t i = 0; i < boxes.size; ++i) {
    is_long |= (boxes.half_w[i] > kLongest * boxes.half_h[i]) |
               (boxes.half_h[i] > kLongest * boxes.half_w[i]);
  }
  if (is_long) return 1;
  const double share = 1 - 2 * threshold + 1e-4;
  return share < 1e-4 ? 1e-4 : (share < 1 ? share : 1);
}

// Finds the boxes begin..end that are not suppressed and whose IoU with `box` could exceed the
// threshold. Returns their number.
inline int64_t find_rivals(const RotatedBox& box, const RotatedArrays& others, int64_t begin,
                           int64_t end, double threshold, const uint8_t* __restrict suppressed,
                           uint8_t* __restrict flags, int32_t* __restrict found) {
  for (int64_t j = begin; j < end; ++j) {
    const RotatedBox other = others[j];
    const double most = largest_intersection(box, other);
    const double least = threshold * (box.area + other.area - most);
    flags[j - begin] = (most > least) & (most > 0.0) & (suppressed[j] == 0);
  }
  int64_t count = 0;
  for (int64_t j = begin; j < end; ++j) {
    found[count] = static_cast<int32_t>(j);
    count += flags[j - begin];
  }
  return count;
}

// Sets keep[i] = 1 for each kept box. T is the dtype of the input boxes.
template <class T>
void nms_rotated_sorted(const RotatedArrays& boxes, double iou_threshold, int64_t max_output,
                        uint8_t* keep) {
  const double below = surely_below(iou_threshold);
  const T threshold = round_down<T>(iou_threshold);
  const RotatedGrid grid(boxes);
  const RotatedArrays sorted = grid.sort(boxes);
  const double share = share_of_extent(sorted, iou_threshold);
  const int64_t n = sorted.size;
  const std::unique_ptr<uint8_t[]> suppressed(new uint8_t[n]()), flags(new uint8_t[n]);
  const std::unique_ptr<int32_t[]> found(new int32_t[n + 1]);
  const std::unique_ptr<double[]> values(new double[n]);
  int64_t kept = 0;
  for (int64_t i = 0; i < boxes.size && kept < max_output; ++i) {
    const int64_t position = grid.position(i);
    if (position >= 0 && suppressed[position]) continue;
    keep[i] = 1;
    ++kept;
    if (position < 0) continue;
    suppressed[position] = 1;
    const RotatedBox box = sorted[position];
    int64_t count = 0;
    grid.visit_near(box, share, [&](int64_t begin, int64_t end) {
      count += find_rivals(box, sorted, begin, end, below, suppressed.get(), flags.get(),
                           found.get() + count);
    });
    iou_of_found(box, sorted, found.get(), count, values.get());
    for (int64_t k = 0; k < count; ++k) {
      suppressed[found[k]] |= static_cast<uint8_t>(static_cast<T>(values[k]) > threshold);
    }
  }
}

}  // namespace cvlib
