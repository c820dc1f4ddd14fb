// The boxes kept so far in an image, class by class, in blocks that fill a vector register.
#pragma once

#include <cstdint>
#include <vector>

#include "../box_math.h"

namespace cvlib {

template <class T>
class KeptBoxes {
 public:
  explicit KeptBoxes(int64_t num_classes) : newest_(num_classes, kNone) {}

  // Whether a kept box of this class suppresses the box.
  bool suppresses(int64_t label, const Box<T>& box, T threshold) const {
    const T box_area = area(box);
    for (int32_t b = newest_[label]; b != kNone; b = blocks_[b].older) {
      const Block& block = blocks_[b];
      int32_t overlapping = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const Box<T> other{block.x1[lane], block.y1[lane], block.x2[lane], block.y2[lane]};
        overlapping |= overlaps(other, block.areas[lane], box, box_area, threshold);
      }
      if (overlapping) return true;
    }
    return false;
  }

  void add(int64_t label, const Box<T>& box) {
    int32_t b = newest_[label];
    if (b == kNone || blocks_[b].count == kLanes) {
      blocks_.push_back(Block{});
      blocks_.back().older = b;
      b = newest_[label] = static_cast<int32_t>(blocks_.size()) - 1;
    }
    Block& block = blocks_[b];
    const int lane = block.count++;
    block.x1[lane] = box.x1, block.y1[lane] = box.y1;
    block.x2[lane] = box.x2, block.y2[lane] = box.y2;
    block.areas[lane] = area(box);
  }

 private:
  static constexpr int kLanes = 16;
  static constexpr int32_t kNone = -1;

  struct Block {  // empty lanes are empty boxes, which overlap nothing
    T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], areas[kLanes];
    int32_t older;
    int32_t count;
  };

  std::vector<int32_t> newest_;  // newest block of each class
  std::vector<Block> blocks_;
};

}  // namespace cvlib
