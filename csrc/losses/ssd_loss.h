// Decisions and terms of SSD's loss. Shared by CPU and CUDA. No torch include.
#pragma once

#include <limits>
#include <type_traits>

#include "vector_math.h"

namespace cvlib {

// On every device a row of logits is summed in kLanes lanes, lane i taking every kLanes-th number
// from i on, and the lanes as a tree (lane + 8, + 4, + 2, + 1). So the losses, which decide which
// negatives are hard, have equal bits everywhere.
constexpr int kLanes = 16;

// Hardness of an anchor as an integer that orders like its loss, which is never negative. NaN is
// the hardest; anchors that are not candidates have -1.
template <class T>
using Hardness = std::make_signed_t<typename FloatFormat<T>::Bits>;

template <class T>
CVLIB_HOST_DEVICE Hardness<T> hardness(T loss, bool is_candidate) {
  const Hardness<T> key = is_nan(loss) ? std::numeric_limits<Hardness<T>>::max()
                                       : std::bit_cast<Hardness<T>>(larger(loss, T(0)));
  return is_candidate ? key : Hardness<T>(-1);
}

// Number of hard negatives of an image: those of rank 0, 1, ... below ratio * positives.
CVLIB_HOST_DEVICE int64_t count_hard(double ratio, int64_t positives, int64_t negatives) {
  const double wanted = std::ceil(ratio * static_cast<double>(positives));
  return wanted < static_cast<double>(negatives) ? static_cast<int64_t>(wanted) : negatives;
}

// Smooth L1 loss with beta 1, and its derivative.
template <class T>
CVLIB_HOST_DEVICE T smooth_l1(T difference) {
  const T size = std::fabs(difference);
  return size < T(1) ? T(0.5) * size * size : size - T(0.5);
}

template <class T>
CVLIB_HOST_DEVICE T smooth_l1_gradient(T difference) {
  return larger(smaller(difference, T(1)), T(-1));
}

}  // namespace cvlib
