// Masks and boxes in the form that the CPU paste kernels read.
#pragma once

#include <vector>

#include "../box_soa.h"
#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"

namespace cvlib {

// Contiguous masks of one size.
template <class T>
struct Masks {
  const T* values;
  int64_t height, width;

  const T* row(int64_t n, int64_t y) const { return values + (n * height + y) * width; }
};

inline std::vector<Box<double>> read_boxes(const Tensor& boxes) {
  const Tensor real = as_real(boxes);
  const int64_t n = real.size(0);
  std::vector<Box<double>> read(n);
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* values = data<T>(real);
    check_values(are_valid(values, n));
    for (int64_t i = 0; i < n; ++i) {
      const Box<T> box = read_box(values + 4 * i);
      read[i] = {box.x1, box.y1, box.x2, box.y2};
    }
  });
  return read;
}

template <class T>
bool are_valid_masks(const T* values, int64_t size) {
  bool valid = true;
  with_best_instructions([&] { valid = has_no_nan(values, size); });
  return valid;
}

}  // namespace cvlib
