// What decides and what is summed in SSD's loss. Shared by CPU and CUDA. No torch include.
#pragma once

#include <limits>
#include <type_traits>

#include "vector_math.h"

namespace cvlib {

// A row of logits is summed by this many lanes, each of which takes every so many-th number, and
// their sums as a tree (lane + 8, + 4, + 2, + 1), on every device. So the losses, which decide what
// a hard negative is, have the same bits everywhere.
constexpr int kLanes = 16;

// The hardness of an anchor as a whole number that orders like its loss, which is at least 0: NaN
// is hardest, and kNoCandidate easier than all.
template <class T>
using Hardness = std::make_signed_t<typename FloatFormat<T>::Bits>;

template <class T>
CVLIB_HOST_DEVICE Hardness<T> hardness(T loss, bool is_candidate) {
  const Hardness<T> key = is_nan(loss) ? std::numeric_limits<Hardness<T>>::max()
                                       : std::bit_cast<Hardness<T>>(larger(loss, T(0)));
  return is_candidate ? key : Hardness<T>(-1);
}

// How many of an image's negatives count: those whose rank 0, 1, .. is below ratio x positives.
CVLIB_HOST_DEVICE int64_t count_hard(double ratio, int64_t positives, int64_t negatives) {
  const double wanted = std::ceil(ratio * static_cast<double>(positives));
  return wanted < static_cast<double>(negatives) ? static_cast<int64_t>(wanted) : negatives;
}

// Smooth L1 with beta 1, and its derivative.
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
