// Rotated boxes as ten arrays, so that inner loops vectorise.
#pragma once

#include <cstdint>
#include <memory>

#include "../parallel.h"
#include "rotated_math.h"

namespace cvlib {

struct RotatedArrays {
  int64_t size = 0;
  std::unique_ptr<double[]> memory;
  double *x, *y, *half_w, *half_h, *cosine, *sine, *extent_x, *extent_y, *span, *area;

  explicit RotatedArrays(int64_t n) : size(n), memory(new double[10 * n]) {
    double* next = memory.get();
    for (double** field :
         {&x, &y, &half_w, &half_h, &cosine, &sine, &extent_x, &extent_y, &span, &area}) {
      *field = next;
      next += n;
    }
  }

  RotatedBox operator[](int64_t i) const {
    return {x[i],    y[i],        half_w[i],   half_h[i], cosine[i],
            sine[i], extent_x[i], extent_y[i], span[i],   area[i]};
  }

  void set(int64_t i, const RotatedBox& box) {
    x[i] = box.x, y[i] = box.y;
    half_w[i] = box.half_w, half_h[i] = box.half_h;
    cosine[i] = box.cosine, sine[i] = box.sine;
    extent_x[i] = box.extent_x, extent_y[i] = box.extent_y;
    span[i] = box.span, area[i] = box.area;
  }
};

// A few boxes in arrays of fixed size, which compilers know not to alias, so that they vectorise.
struct RotatedBlock {
  static constexpr int64_t kSize = 64;
  double x[kSize], y[kSize], w[kSize], h[kSize], angle[kSize];
  double cosine[kSize], sine[kSize], extent_x[kSize], extent_y[kSize], span[kSize], area[kSize];
};

// Fills `arrays` with the boxes indices[0..n], or the first n boxes if `indices` is null.
template <class T>
void fill(RotatedArrays& arrays, const T* boxes, const int32_t* indices, int64_t n) {
  RotatedBlock block;
  for (int64_t begin = 0; begin < n; begin += RotatedBlock::kSize) {
    const int64_t count = n - begin < RotatedBlock::kSize ? n - begin : RotatedBlock::kSize;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t i = begin + k;
      const T* b = boxes + 5 * (indices ? static_cast<int64_t>(indices[i]) : i);
      block.x[k] = b[0], block.y[k] = b[1], block.w[k] = b[2], block.h[k] = b[3];
      block.angle[k] = b[4];
    }
    for (int64_t k = 0; k < count; ++k) {
      const RotatedBox box =
          make_rotated_box(block.x[k], block.y[k], block.w[k], block.h[k], block.angle[k]);
      block.w[k] = box.half_w, block.h[k] = box.half_h;
      block.cosine[k] = box.cosine, block.sine[k] = box.sine;
      block.extent_x[k] = box.extent_x, block.extent_y[k] = box.extent_y;
      block.span[k] = box.span, block.area[k] = box.area;
    }
    const auto copy = [begin, count](const double* from, double* to) {
      for (int64_t k = 0; k < count; ++k) to[begin + k] = from[k];
    };
    copy(block.x, arrays.x), copy(block.y, arrays.y);
    copy(block.w, arrays.half_w), copy(block.h, arrays.half_h);
    copy(block.cosine, arrays.cosine), copy(block.sine, arrays.sine);
    copy(block.extent_x, arrays.extent_x), copy(block.extent_y, arrays.extent_y);
    copy(block.span, arrays.span), copy(block.area, arrays.area);
  }
}

template <class T>
RotatedArrays to_rotated_arrays(const T* boxes, int64_t n) {
  RotatedArrays arrays(n);
  with_best_instructions([&] { fill(arrays, boxes, nullptr, n); });
  return arrays;
}

// False when any box holds a NaN, a negative side or an angle beyond kLargestAngle.
template <class T>
bool are_rotated_boxes(const T* boxes, int64_t n) {
  bool valid = true;
  for (int64_t i = 0; i < n; ++i) valid &= is_rotated_box(boxes + 5 * i);
  return valid;
}

// Finds the boxes begin..end of `others` whose upright bounding boxes meet that of `box`; all
// others have IoU 0. Returns their number; `flags` and `found` have end - begin entries.
inline int64_t find_near(const RotatedBox& box, const RotatedArrays& others, int64_t begin,
                         int64_t end, uint8_t* __restrict flags, int32_t* __restrict found) {
  const double* __restrict x = others.x;
  const double* __restrict y = others.y;
  const double* __restrict extent_x = others.extent_x;
  const double* __restrict extent_y = others.extent_y;
  for (int64_t j = begin; j < end; ++j) {
    flags[j - begin] = (std::abs(x[j] - box.x) < extent_x[j] + box.extent_x) &
                       (std::abs(y[j] - box.y) < extent_y[j] + box.extent_y);
  }
  int64_t count = 0;
  for (int64_t j = begin; j < end; ++j) {
    found[count] = static_cast<int32_t>(j);
    count += flags[j - begin];
  }
  return count;
}

// values[k] = IoU of `box` and others[indices[k]].
inline void iou_of_found(const RotatedBox& box, const RotatedArrays& others,
                         const int32_t* __restrict indices, int64_t count,
                         double* __restrict values) {
  for (int64_t k = 0; k < count; ++k) values[k] = iou(box, others[indices[k]]);
}

}  // namespace cvlib
