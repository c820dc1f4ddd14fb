// Rotated boxes sorted by size and location, so that those near a given box are a few contiguous
// spans.
//
// Boxes of similar size share a level (a factor of four in the longer side of the upright bounding
// box), and each level has its own grid of centres, stored cell after cell. So a few huge boxes do
// not widen the search among many small ones. Memory and building are linear in the number of
// boxes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "rotated_soa.h"

namespace cvlib {

class RotatedGrid {
 public:
  // Boxes without area, infinite and invalid boxes get no position: they overlap nothing.
  explicit RotatedGrid(const RotatedArrays& boxes) : position_(boxes.size, -1) {
    const std::vector<int8_t> level_of = choose_levels(boxes);
    lay_out(boxes.size);
    place(boxes, level_of);
  }

  // Position of the box of this rank in the result of `sort`, or -1.
  int64_t position(int64_t rank) const { return position_[rank]; }

  // Calls visit(begin, end) with spans of positions that include every box whose centre is within
  // box.extent + share * (the largest extent in its level) of the box's centre, along both axes.
  template <class Visit>
  void visit_near(const RotatedBox& box, double share, const Visit& visit) const {
    for (const Level& level : levels_) {
      if (level.count == 0) continue;
      const double reach_x = reach(box.x, box.extent_x + share * level.largest_x);
      const double reach_y = reach(box.y, box.extent_y + share * level.largest_y);
      if (box.x + reach_x < level.min_x || box.x - reach_x > level.max_x) continue;
      if (box.y + reach_y < level.min_y || box.y - reach_y > level.max_y) continue;
      const int64_t left = level.column(box.x - reach_x), right = level.column(box.x + reach_x);
      const int64_t bottom = level.row(box.y + reach_y);
      for (int64_t row = level.row(box.y - reach_y); row <= bottom; ++row) {
        const int64_t first = level.first_cell + row * level.columns;
        const int64_t begin = start_[first + left], end = start_[first + right + 1];
        if (begin < end) visit(begin, end);
      }
    }
  }

  // The boxes in the order of their positions.
  RotatedArrays sort(const RotatedArrays& boxes) const {
    RotatedArrays sorted(size_);
    for (int64_t i = 0; i < boxes.size; ++i) {
      if (position_[i] >= 0) sorted.set(position_[i], boxes[i]);
    }
    return sorted;
  }

 private:
  static constexpr int kLevels = 8;
  static constexpr int64_t kFewBoxes = 64;  // for fewer, a grid costs more than it saves
  static constexpr double kFar = 1e150;

  struct Level {
    double min_x = kFar, min_y = kFar, max_x = -kFar, max_y = -kFar;
    double largest_x = 0, largest_y = 0, sum_x = 0, sum_y = 0;
    int64_t count = 0, columns = 1, rows = 1, first_cell = 0;
    double per_x = 0, per_y = 0;

    int64_t column(double x) const { return clamp((x - min_x) * per_x, columns); }
    int64_t row(double y) const { return clamp((y - min_y) * per_y, rows); }

    static int64_t clamp(double cell, int64_t count) {
      if (!(cell > 0)) return 0;
      return cell < static_cast<double>(count) ? static_cast<int64_t>(cell) : count - 1;
    }

    void add(const RotatedArrays& boxes, int64_t i) {
      ++count;
      min_x = smaller(min_x, boxes.x[i]), max_x = larger(max_x, boxes.x[i]);
      min_y = smaller(min_y, boxes.y[i]), max_y = larger(max_y, boxes.y[i]);
      sum_x += boxes.extent_x[i], sum_y += boxes.extent_y[i];
      largest_x = larger(largest_x, boxes.extent_x[i]);
      largest_y = larger(largest_y, boxes.extent_y[i]);
    }
  };

  // Slightly more than the distance, to cover rounding of extents and coordinates.
  static double reach(double place, double distance) {
    return distance * (1 + 1e-9) + std::abs(place) * 1e-15;
  }

  static bool has_place(const RotatedArrays& boxes, int64_t i) {
    return (boxes.area[i] > 0) & (boxes.area[i] < static_cast<double>(INFINITY)) &
           (std::abs(boxes.x[i]) < kFar) & (std::abs(boxes.y[i]) < kFar);
  }

  static int exponent(double value) {  // for positive numbers; 0 if denormal
    return static_cast<int>(std::bit_cast<uint64_t>(value) >> 52);
  }

  std::vector<int8_t> choose_levels(const RotatedArrays& boxes) {
    std::vector<int8_t> level_of(boxes.size, -1);
    int lowest = std::numeric_limits<int>::max();
    const auto size_of = [&](int64_t i) {
      return exponent(larger(boxes.extent_x[i], boxes.extent_y[i]));
    };
    for (int64_t i = 0; i < boxes.size; ++i) {
      if (has_place(boxes, i) && size_of(i) < lowest) lowest = size_of(i);
    }
    for (int64_t i = 0; i < boxes.size; ++i) {
      if (!has_place(boxes, i)) continue;
      const int level = (size_of(i) - lowest) / 2;
      level_of[i] = static_cast<int8_t>(level < kLevels ? level : kLevels - 1);
      levels_[level_of[i]].add(boxes, i);
      ++size_;
    }
    return level_of;
  }

  // Cells about as large as a mean box, but at most as many as boxes.
  static int64_t cells_along(double length, double mean, int64_t count) {
    const double most = std::sqrt(static_cast<double>(count)) + 1;
    const double wanted = length / mean;
    return wanted >= 1 ? static_cast<int64_t>(wanted < most ? wanted : most) : 1;
  }

  void lay_out(int64_t n) {
    int64_t cells = 0;
    for (Level& level : levels_) {
      level.first_cell = cells;
      if (level.count > 0 && n >= kFewBoxes) {
        const double count = static_cast<double>(level.count);
        const double width = level.max_x - level.min_x, height = level.max_y - level.min_y;
        level.columns = cells_along(width, level.sum_x / count, level.count);
        level.rows = cells_along(height, level.sum_y / count, level.count);
        if (width > 0) level.per_x = static_cast<double>(level.columns) / width;
        if (height > 0) level.per_y = static_cast<double>(level.rows) / height;
      }
      if (level.count > 0) cells += level.columns * level.rows;
    }
    start_.assign(cells + 1, 0);
  }

  // Counting sort by cell.
  void place(const RotatedArrays& boxes, const std::vector<int8_t>& level_of) {
    std::vector<int32_t> cell(boxes.size);
    for (int64_t i = 0; i < boxes.size; ++i) {
      if (level_of[i] < 0) continue;
      const Level& level = levels_[level_of[i]];
      const int64_t c =
          level.first_cell + level.row(boxes.y[i]) * level.columns + level.column(boxes.x[i]);
      cell[i] = static_cast<int32_t>(c);
      ++start_[c + 1];
    }
    for (size_t c = 1; c < start_.size(); ++c) start_[c] += start_[c - 1];
    std::vector<int32_t> next(start_.begin(), start_.end() - 1);
    for (int64_t i = 0; i < boxes.size; ++i) {
      if (level_of[i] >= 0) position_[i] = next[cell[i]]++;
    }
  }

  Level levels_[kLevels];
  int64_t size_ = 0;
  std::vector<int32_t> start_;     // first position of each cell
  std::vector<int32_t> position_;  // of each rank
};

}  // namespace cvlib
