// Positions of the samples and bins of a region. Shared by CPU and CUDA, so that both devices
// choose the same samples and pixels. The order of operations is torchvision's, because ceil and
// floor decide here. No torch include.
//
// A region is a row (image index, x1, y1, x2, y2). Along each axis it is divided into bins, and
// roi_align takes equidistant samples in each bin. The axes are independent: the weight of a pixel
// is the product of its weights along both.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../box_math.h"

namespace cvlib {

// Limit of a coordinate times spatial_scale, so that its integer part does not overflow.
constexpr double kLargestCoordinate = 1073741824.0;

// False for NaN, infinity, unordered corners and image indices out of range.
template <class T>
CVLIB_HOST_DEVICE bool is_region(const T* region, int64_t num_images, T scale) {
  const T limit = static_cast<T>(kLargestCoordinate);
  bool valid = region[0] >= T(0) && region[0] < static_cast<T>(num_images);
  valid = valid && region[1] <= region[3] && region[2] <= region[4];
  for (int i = 1; i < 5; ++i) valid = valid && std::fabs(region[i] * scale) <= limit;
  return valid;
}

template <class T>
struct SampleAxis {
  T start, bin;
  int64_t samples;  // per bin
};

template <class T>
CVLIB_HOST_DEVICE SampleAxis<T> sample_axis(T low, T high, T scale, bool aligned, int64_t bins,
                                            int64_t sampling_ratio) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = low * scale - offset;
  T length = (high * scale - offset) - start;
  if (!aligned) length = larger(length, T(1));
  const T bin = length / static_cast<T>(bins);
  const int64_t samples =
      sampling_ratio > 0 ? sampling_ratio : static_cast<int64_t>(std::ceil(bin));
  return {start, bin, samples};
}

// Never decreases with `sample`, because every operation rounds monotonically.
template <class T>
CVLIB_HOST_DEVICE T sample_position(const SampleAxis<T>& axis, int64_t bin, int64_t sample) {
  return axis.start + static_cast<T>(bin) * axis.bin +
         (static_cast<T>(sample) + T(0.5)) * axis.bin / static_cast<T>(axis.samples);
}

struct AlignRule {
  int64_t bins_y, bins_x, sampling_ratio;
  bool aligned;
};

struct RoiRange {
  int64_t begin, end;
};

// The samples of a bin with -1 <= position <= size; others count as 0. Found by bisection if the
// region extends beyond the map, so that a region of 1e9 pixels costs no more than one as large as
// the map.
template <class T>
CVLIB_HOST_DEVICE RoiRange samples_inside(const SampleAxis<T>& axis, int64_t bin, int64_t size) {
  if (size <= 0 || axis.samples <= 0) return {0, 0};
  const T end = static_cast<T>(size);
  RoiRange range{0, axis.samples};
  if (sample_position(axis, bin, 0) < T(-1)) {
    int64_t high = axis.samples;
    while (range.begin < high) {
      const int64_t middle = (range.begin + high) / 2;
      if (sample_position(axis, bin, middle) < T(-1)) {
        range.begin = middle + 1;
      } else {
        high = middle;
      }
    }
  }
  if (sample_position(axis, bin, axis.samples - 1) > end) {
    int64_t low = range.begin;
    while (low < range.end) {
      const int64_t middle = (low + range.end) / 2;
      if (sample_position(axis, bin, middle) > end) {
        range.end = middle;
      } else {
        low = middle + 1;
      }
    }
  }
  return range;
}

// The two pixels next to a position; at the last pixel that pixel twice, with weights 1 and 0.
template <class T>
struct Neighbours {
  int64_t low, high;
  T low_weight, high_weight;
};

template <class T>
CVLIB_HOST_DEVICE Neighbours<T> neighbours(T position, int64_t size) {
  const T clamped = larger(position, T(0));
  const int64_t low = static_cast<int64_t>(clamped);
  if (low >= size - 1) return {size - 1, size - 1, T(1), T(0)};
  const T fraction = clamped - static_cast<T>(low);
  return {low, low + 1, T(1) - fraction, fraction};
}

// roi_pool works on whole pixels, both ends included.
template <class T>
struct PoolAxis {
  int64_t start;
  T bin;
};

template <class T>
CVLIB_HOST_DEVICE PoolAxis<T> pool_axis(T low, T high, T scale, int64_t bins) {
  const int64_t start = static_cast<int64_t>(std::round(low * scale));
  const int64_t length = static_cast<int64_t>(std::round(high * scale)) - start + 1;
  return {start, static_cast<T>(length > 1 ? length : 1) / static_cast<T>(bins)};
}

// The pixels of a bin, clipped to the map; begin >= end if there are none.
template <class T>
CVLIB_HOST_DEVICE RoiRange bin_pixels(const PoolAxis<T>& axis, int64_t bin, int64_t size) {
  int64_t begin = axis.start + static_cast<int64_t>(std::floor(static_cast<T>(bin) * axis.bin));
  int64_t end = axis.start + static_cast<int64_t>(std::ceil(static_cast<T>(bin + 1) * axis.bin));
  begin = begin < 0 ? 0 : (begin > size ? size : begin);
  end = end < 0 ? 0 : (end > size ? size : end);
  return {begin, end};
}

// Feature pyramids: a box belongs to the last level whose smallest area it reaches.
//
// floor(k0 + log2(sqrt(area) / s0) + 1e-6) >= k is equivalent to area >= s0^2 4^(k - k0) 2^-2e-6.
// Comparing areas avoids a logarithm, whose last bit differs between libraries.
inline double smallest_area(int64_t level, int64_t canonical_level, double canonical_scale) {
  constexpr double kRounding = 0.9999986137065998;  // 2^-2e-6
  const int exponent = static_cast<int>(2 * (level - canonical_level));
  return std::ldexp(canonical_scale * canonical_scale * kRounding, exponent);
}

struct Pyramid {
  std::vector<double> scales, smallest_areas;  // per level
};

inline Pyramid make_pyramid(const std::vector<int64_t>& levels, double canonical_scale,
                            int64_t canonical_level) {
  Pyramid pyramid;
  for (const int64_t level : levels) {
    pyramid.scales.push_back(std::ldexp(1.0, static_cast<int>(-level)));
    pyramid.smallest_areas.push_back(smallest_area(level, canonical_level, canonical_scale));
  }
  return pyramid;
}

template <class T>
CVLIB_HOST_DEVICE int64_t choose_level(const T* region, const double* smallest_areas,
                                       int64_t num_levels) {
  const T area = (region[3] - region[1]) * (region[4] - region[2]);
  int64_t level = 0;
  while (level + 1 < num_levels && static_cast<double>(area) >= smallest_areas[level + 1]) ++level;
  return level;
}

}  // namespace cvlib
