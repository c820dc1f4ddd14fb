// Greedy non-maximum suppression of boxes that are already sorted, best first, in one group.
//
// A box can only suppress boxes whose centres are close to its own: IoU > t requires sides whose
// ratio is above t, which bounds the distance of the centres by a multiple of the box's own side
// (its reach). So boxes are put into a grid by centre, stored cell after cell, and a kept box
// visits only the cells within its reach: a few contiguous spans that vectorise. For boxes of
// similar size that is O(n) instead of O(n x kept). The grid only narrows the search; `overlaps`
// decides.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "../box_soa.h"

namespace cvlib {

// Flags the boxes begin..end that `box` suppresses.
template <class T>
void suppress_span(const Box<T>& box, T box_area, const BoxArrays<T>& boxes, int64_t begin,
                   int64_t end, T threshold, uint8_t* __restrict suppressed) {
  const T* __restrict x1 = boxes.x1;
  const T* __restrict y1 = boxes.y1;
  const T* __restrict x2 = boxes.x2;
  const T* __restrict y2 = boxes.y2;
  const T* __restrict areas = boxes.areas;
  for (int64_t j = begin; j < end; ++j) {
    const Box<T> other{x1[j], y1[j], x2[j], y2[j]};
    suppressed[j] |= static_cast<uint8_t>(overlaps(box, box_area, other, areas[j], threshold));
  }
}

// Compares every kept box with every later box.
template <class T>
void nms_all_pairs(const BoxArrays<T>& boxes, T threshold, int64_t max_output, uint8_t* keep) {
  const int64_t n = boxes.size;
  const std::unique_ptr<uint8_t[]> suppressed(new uint8_t[n]());
  int64_t kept = 0;
  for (int64_t i = 0; i < n && kept < max_output; ++i) {
    if (suppressed[i] || has_nan(boxes[i])) continue;
    keep[i] = 1;
    ++kept;
    suppress_span(boxes[i], boxes.areas[i], boxes, i + 1, n, threshold, suppressed.get());
  }
}

// Bounds and mean sides of the boxes. `regular` is false where rounding could matter (non-finite or
// denormal areas), so that every pair must be compared.
template <class T>
struct Extent {
  T min_x, min_y, max_x, max_y;
  T mean_w, mean_h;
  bool regular;
};

template <class T>
Extent<T> measure_extent(const BoxArrays<T>& boxes) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  constexpr T kTiny = std::numeric_limits<T>::min() * T(1e6);
  const int64_t n = boxes.size;
  Extent<T> e{kInf, kInf, -kInf, -kInf, 0, 0, true};
  T sum_w = 0, sum_h = 0;
  bool regular = true;
  for (int64_t i = 0; i < n; ++i) {
    const T a = boxes.areas[i];
    e.min_x = smaller(e.min_x, boxes.x1[i]);
    e.min_y = smaller(e.min_y, boxes.y1[i]);
    e.max_x = larger(e.max_x, boxes.x2[i]);
    e.max_y = larger(e.max_y, boxes.y2[i]);
    sum_w += boxes.x2[i] - boxes.x1[i];
    sum_h += boxes.y2[i] - boxes.y1[i];
    regular &= (a == T(0)) | ((a > kTiny) & (a < kInf));
  }
  e.mean_w = sum_w / T(n);
  e.mean_h = sum_h / T(n);
  // False for overflowing sums, infinite corners and NaN.
  regular &= e.max_x - e.min_x < kInf && e.max_y - e.min_y < kInf;
  e.regular = regular && e.mean_w > T(0) && e.mean_h > T(0) && e.mean_w < kInf && e.mean_h < kInf;
  return e;
}

// Largest distance of centres, in sides of the suppressing box, at which IoU > t is possible. Along
// one axis, with sides a and b that share a length s: s / (a + b - s) >= IoU, so
// s > t (a + b) / (1 + t); the distance is at most (a + b) / 2 - s; and b < a / t.
inline double reach_in_sides(double threshold) { return (1 - threshold) / (2 * threshold); }

template <class T>
class CenterGrid {
 public:
  CenterGrid(const BoxArrays<T>& boxes, const Extent<T>& extent, double reach)
      : min_x_(extent.min_x), min_y_(extent.min_y), sorted_(boxes.size) {
    // Cells about as large as the reach of a mean box: wide enough for spans worth vectorising.
    columns_ = cells_along(extent.max_x - extent.min_x, T(reach) * extent.mean_w, boxes.size);
    rows_ = cells_along(extent.max_y - extent.min_y, T(reach) * extent.mean_h, boxes.size);
    per_x_ = T(columns_) / larger(extent.max_x - extent.min_x, std::numeric_limits<T>::min());
    per_y_ = T(rows_) / larger(extent.max_y - extent.min_y, std::numeric_limits<T>::min());
    place(boxes);
    const T largest = larger(larger(std::abs(extent.min_x), std::abs(extent.max_x)),
                             larger(std::abs(extent.min_y), std::abs(extent.max_y)));
    // Rounding errors of centres are relative to the largest coordinate.
    slack_ = 8 * std::numeric_limits<T>::epsilon() * largest;
    reach_ = T(reach * 1.0001 + 1e-5);
  }

  bool is_suppressed(int64_t rank) const { return suppressed_[position_[rank]]; }

  void suppress_around(const Box<T>& box, T box_area, T threshold) {
    const T x = center(box.x1, box.x2), y = center(box.y1, box.y2);
    const T reach_x = reach_ * (box.x2 - box.x1) + slack_;
    const T reach_y = reach_ * (box.y2 - box.y1) + slack_;
    const int64_t left = column(x - reach_x), right = column(x + reach_x);
    const int64_t top = row(y - reach_y), bottom = row(y + reach_y);
    for (int64_t r = top; r <= bottom; ++r) {
      suppress_span(box, box_area, sorted_, start_[r * columns_ + left],
                    start_[r * columns_ + right + 1], threshold, suppressed_.get());
    }
  }

 private:
  static T center(T low, T high) { return low * T(0.5) + high * T(0.5); }

  static int64_t cells_along(T length, T cell, int64_t n) {
    const double limit = std::sqrt(static_cast<double>(n)) + 1;
    const double wanted = static_cast<double>(length) / static_cast<double>(cell);
    return wanted >= 1 ? static_cast<int64_t>(wanted < limit ? wanted : limit) : 1;
  }

  static int64_t clamp(T cell, int64_t count) {
    if (!(cell > T(0))) return 0;
    return cell < T(count) ? static_cast<int64_t>(cell) : count - 1;
  }

  int64_t column(T x) const { return clamp((x - min_x_) * per_x_, columns_); }
  int64_t row(T y) const { return clamp((y - min_y_) * per_y_, rows_); }

  // Counting sort by cell.
  void place(const BoxArrays<T>& boxes) {
    const int64_t n = boxes.size;
    std::vector<int32_t> cell(n);
    start_.assign(columns_ * rows_ + 1, 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = row(center(boxes.y1[i], boxes.y2[i])) * columns_ +
                        column(center(boxes.x1[i], boxes.x2[i]));
      cell[i] = static_cast<int32_t>(c);
      ++start_[c + 1];
    }
    for (int64_t c = 0; c < columns_ * rows_; ++c) start_[c + 1] += start_[c];
    std::vector<int32_t> next(start_.begin(), start_.end() - 1);
    position_.resize(n);
    for (int64_t i = 0; i < n; ++i) {
      const int32_t p = next[cell[i]]++;
      position_[i] = p;
      sorted_.set(p, boxes[i]);
    }
    suppressed_.reset(new uint8_t[n]());
  }

  T min_x_, min_y_, per_x_, per_y_, reach_, slack_;
  int64_t columns_, rows_;
  BoxArrays<T> sorted_;            // boxes, cell after cell
  std::vector<int32_t> start_;     // first box of each cell in sorted_
  std::vector<int32_t> position_;  // position of each rank in sorted_
  std::unique_ptr<uint8_t[]> suppressed_;
};

// Below these the grid costs more than it saves.
constexpr int64_t kMinGridBoxes = 160;
constexpr double kMinGridThreshold = 0.05;

// Sets keep[i] = 1 for each kept box.
template <class T>
void nms_sorted(const BoxArrays<T>& boxes, double iou_threshold, int64_t max_output,
                uint8_t* keep) {
  const int64_t n = boxes.size;
  const T threshold = round_down<T>(iou_threshold);
  if (n < kMinGridBoxes || iou_threshold < kMinGridThreshold) {
    return nms_all_pairs(boxes, threshold, max_output, keep);
  }
  const Extent<T> extent = measure_extent(boxes);
  if (!extent.regular) return nms_all_pairs(boxes, threshold, max_output, keep);
  CenterGrid<T> grid(boxes, extent, reach_in_sides(iou_threshold));
  int64_t kept = 0;
  for (int64_t i = 0; i < n && kept < max_output; ++i) {
    if (grid.is_suppressed(i)) continue;
    keep[i] = 1;
    ++kept;
    grid.suppress_around(boxes[i], boxes.areas[i], threshold);
  }
}

}  // namespace cvlib
