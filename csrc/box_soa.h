// Boxes as five arrays (four coordinates and the area), so that inner loops vectorise.
#pragma once

#include <cstdint>
#include <memory>

#include "box_math.h"

namespace cvlib {

template <class T>
struct BoxArrays {
  int64_t size = 0;
  std::unique_ptr<T[]> memory;
  T *x1 = nullptr, *y1 = nullptr, *x2 = nullptr, *y2 = nullptr, *areas = nullptr;

  explicit BoxArrays(int64_t n) : size(n), memory(new T[5 * n]) {
    x1 = memory.get();
    y1 = x1 + n;
    x2 = y1 + n;
    y2 = x2 + n;
    areas = y2 + n;
  }

  Box<T> operator[](int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  void set(int64_t i, const Box<T>& box) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
    areas[i] = area(box);
  }
};

template <class T>
BoxArrays<T> to_arrays(const T* boxes, int64_t n) {
  BoxArrays<T> arrays(n);
  for (int64_t i = 0; i < n; ++i) {
    arrays.set(i, read_box(boxes + 4 * i));
  }
  return arrays;
}

// False when any box holds a NaN or has x2 < x1 or y2 < y1.
template <class T>
bool are_valid(const T* boxes, int64_t n) {
  bool valid = true;
  for (int64_t i = 0; i < n; ++i) {
    const T* b = boxes + 4 * i;
    valid &= (b[0] <= b[2]) & (b[1] <= b[3]);
  }
  return valid;
}

}  // namespace cvlib
