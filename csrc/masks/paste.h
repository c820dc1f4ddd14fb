// Positions of canvas pixels in a mask that is pasted into a box. Shared by CPU and CUDA.
//
// A mask of `cells` cells is stretched over [low, high]. Positions are always computed in double,
// because float32 has no fractional bits left for boxes of many millions of pixels. The
// interpolation runs in the dtype of the masks, first along x, then along y on every device, so
// that a threshold decides alike.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "../box_math.h"

namespace cvlib {

// False for a box without area, with a NaN or an infinite side, into which nothing is pasted.
CVLIB_HOST_DEVICE bool can_paste(const Box<double>& box) {
  const double width = box.x2 - box.x1, height = box.y2 - box.y1;
  return width > 0 && width <= DBL_MAX && height > 0 && height <= DBL_MAX;
}

struct PixelRange {
  int64_t begin, end;
};

CVLIB_HOST_DEVICE int64_t clamp_to_size(double value, int64_t size) {
  if (!(value > 0)) return 0;
  return value < static_cast<double>(size) ? static_cast<int64_t>(value) : size;
}

// The pixels in 0..size - 1 whose centres lie in [low, high].
CVLIB_HOST_DEVICE PixelRange pixels_in(double low, double high, int64_t size) {
  const int64_t begin = clamp_to_size(std::ceil(low - 0.5), size);
  const int64_t end = clamp_to_size(std::floor(high - 0.5) + 1, size);
  return {begin, end < begin ? begin : end};
}

// A pixel lies between the cells `low` (-1 to cells - 1) and `low` + 1. Cells -1 and `cells` are 0.
template <class T>
struct PasteTap {
  int64_t low;
  T fraction;
};

template <class T>
CVLIB_HOST_DEVICE PasteTap<T> locate(int64_t pixel, double low, double high, int64_t cells) {
  const double along = (static_cast<double>(pixel) + 0.5 - low) / (high - low);
  const double position = along * static_cast<double>(cells) - 0.5;
  const double cell = std::floor(position);
  return {static_cast<int64_t>(cell), static_cast<T>(position - cell)};
}

// Exact where both ends are equal, so that a constant mask stays constant.
template <class T>
CVLIB_HOST_DEVICE T interpolate(T from, T to, T fraction) {
  return from + (to - from) * fraction;
}

struct Canvas {
  int64_t height, width;
};

// How an interpolated value becomes an element of the result.
template <class T>
struct PasteThreshold {
  using Out = bool;
  T threshold;
  CVLIB_HOST_DEVICE bool operator()(T value) const { return value >= threshold; }
};

template <class T>
struct PasteValue {
  using Out = T;
  CVLIB_HOST_DEVICE T operator()(T value) const { return value; }
};

}  // namespace cvlib
