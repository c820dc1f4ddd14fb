// Boxes in chunks of near boxes, each chunk with the bounding box around it. A search for the boxes
// that overlap a given one visits only the chunks whose bounding boxes meet it.
//
// The chunks decide nothing. Two boxes have an IoU above 0 only if max(x1) < min(x2) and
// max(y1) < min(y2). The bounding box holds the smallest x1, the largest x2 and so on, without any
// rounding; so a box outside it has IoU 0 with every box of the chunk, exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../box_soa.h"
#include "../nms/sort_scores.h"

namespace cvlib {

constexpr int kChunk = 32;

template <class T>
class SpatialChunks {
 public:
  // Takes the boxes members[0..n]; `ranks` are their positions in `members`.
  SpatialChunks(const T* boxes, const int32_t* members, int64_t n)
      : count((n + kChunk - 1) / kChunk),
        arrays(count * kChunk),
        ranks(count * kChunk, kNoRank),
        around(count) {
    order_by_location(boxes, members, n);
    for (int64_t c = 0; c < count; ++c) fill(boxes, members, c);
  }

  // Flags the chunks whose bounding boxes meet the box; hits has `count` entries.
  void find_near(const Box<T>& box, uint8_t* __restrict hits) const {
    const T* __restrict x1 = around.x1;
    const T* __restrict y1 = around.y1;
    const T* __restrict x2 = around.x2;
    const T* __restrict y2 = around.y2;
    for (int64_t c = 0; c < count; ++c) {
      hits[c] = (box.x1 < x2[c]) & (x1[c] < box.x2) & (box.y1 < y2[c]) & (y1[c] < box.y2);
    }
  }

  static constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();  // padding

  int64_t count;
  BoxArrays<T> arrays;         // chunk after chunk; padding boxes are empty and overlap nothing
  std::vector<int32_t> ranks;  // ascending within a chunk
  BoxArrays<T> around;         // bounding box of each chunk

 private:
  static constexpr int kBits = 10, kLevels = 8;

  // Sorts by size in powers of two, then by centre along a Z-order curve, so that boxes of similar
  // size that are near each other become neighbours.
  void order_by_location(const T* boxes, const int32_t* members, int64_t n) {
    for (int64_t i = 0; i < n; ++i) ranks[i] = static_cast<int32_t>(i);
    if (n <= 2 * kChunk) return;
    constexpr T kInf = std::numeric_limits<T>::infinity();
    T min_x = kInf, min_y = kInf, max_x = -kInf, max_y = -kInf;
    for (int64_t i = 0; i < n; ++i) {
      const Box<T> box = read_box(boxes + 4 * static_cast<int64_t>(members[i]));
      min_x = smaller(min_x, box.x1), max_x = larger(max_x, box.x2);
      min_y = smaller(min_y, box.y1), max_y = larger(max_y, box.y2);
    }
    const T width = max_x - min_x, height = max_y - min_y;
    std::vector<Ranked<uint32_t>> items(n);
    for (int64_t i = 0; i < n; ++i) {
      const Box<T> box = read_box(boxes + 4 * static_cast<int64_t>(members[i]));
      const uint32_t x = cell((box.x1 * T(0.5) + box.x2 * T(0.5) - min_x) / width);
      const uint32_t y = cell((box.y1 * T(0.5) + box.y2 * T(0.5) - min_y) / height);
      const T share = larger((box.x2 - box.x1) / width, (box.y2 - box.y1) / height);
      uint32_t level = 0;
      for (T size = T(0.5); level + 1 < kLevels && share < size; size *= T(0.5)) ++level;
      items[i] = {level << (2 * kBits) | interleave(x) | interleave(y) << 1, ranks[i]};
    }
    radix_sort(items);
    for (int64_t i = 0; i < n; ++i) ranks[i] = items[i].index;
    for (int64_t c = 0; c < count; ++c) {
      std::sort(ranks.begin() + c * kChunk, ranks.begin() + std::min((c + 1) * kChunk, n));
    }
  }

  static uint32_t cell(T position) {
    constexpr T kCells = T(1 << kBits);
    const T scaled = position * kCells;
    if (!(scaled > T(0))) return 0;  // also NaN, from infinite boxes
    return scaled < kCells ? static_cast<uint32_t>(scaled) : (1u << kBits) - 1;
  }

  // Moves the bits of a number below 2^16 to the even positions.
  static uint32_t interleave(uint32_t v) {
    v = (v | v << 8) & 0x00ff00ffu;
    v = (v | v << 4) & 0x0f0f0f0fu;
    v = (v | v << 2) & 0x33333333u;
    return (v | v << 1) & 0x55555555u;
  }

  void fill(const T* boxes, const int32_t* members, int64_t c) {
    Box<T> bounds{0, 0, 0, 0};
    for (int64_t position = c * kChunk; position < (c + 1) * kChunk; ++position) {
      if (ranks[position] == kNoRank) {
        arrays.set(position, {0, 0, 0, 0});
        continue;
      }
      const Box<T> box = read_box(boxes + 4 * static_cast<int64_t>(members[ranks[position]]));
      arrays.set(position, box);
      if (position == c * kChunk) bounds = box;
      bounds = {smaller(bounds.x1, box.x1), smaller(bounds.y1, box.y1), larger(bounds.x2, box.x2),
                larger(bounds.y2, box.y2)};
    }
    around.set(c, bounds);
  }
};

}  // namespace cvlib
