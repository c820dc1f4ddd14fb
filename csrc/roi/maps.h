// Feature maps and their regions, on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "region.h"
#include "tensors.h"

namespace cvlib {

// All channels of one image at one level.
template <class T>
struct FeatureMap {
  T* data;
  int64_t channels, height, width;
  bool channels_last;
};

template <class T>
FeatureMap<T> map_of(const Tensor& tensor, int64_t image) {
  const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  // The forward never writes through this pointer.
  T* values = const_cast<T*>(data<T>(tensor));
  return {values + image * c * h * w, c, h, w, is_dense_channels_last(tensor)};
}

// For each row, the range of columns that regions read or write.
struct RowRanges {
  std::vector<int32_t> begin, end;

  explicit RowRanges(int64_t height) : begin(height, INT32_MAX), end(height, 0) {}

  void include(int64_t row, int64_t first, int64_t last) {
    begin[row] = std::min(begin[row], static_cast<int32_t>(first));
    end[row] = std::max(end[row], static_cast<int32_t>(last) + 1);
  }

  // Widens the ranges to whole tiles if the map is wide enough for one.
  void round_to_lines(int64_t width, int64_t lanes) {
    for (size_t row = 0; row < begin.size(); ++row) {
      if (begin[row] >= end[row]) {
        begin[row] = end[row] = 0;
        continue;
      }
      const int64_t last = std::min(width, (end[row] + lanes - 1) / lanes * lanes);
      const int64_t first =
          std::min(begin[row] / lanes * lanes, std::max<int64_t>(last - lanes, 0));
      begin[row] = static_cast<int32_t>(first);
      end[row] = static_cast<int32_t>(last);
    }
  }
};

// Transposes `channels` channels from `channel` on into lines. Rows are one line longer than the
// map: the line after the last pixel is zero and is read by taps without a pixel.
template <class T, class L>
void pack_map(const FeatureMap<T>& map, int64_t channel, int64_t channels, const RowRanges& ranges,
              T* lines) {
  constexpr int64_t kWidth = kLanes<T>;
  for (int64_t y = 0; y < map.height; ++y) {
    const int64_t begin = ranges.begin[y], count = ranges.end[y] - begin;
    if (count <= 0) continue;
    T* row = lines + y * (map.width + 1) * kWidth;
    T* target = row + begin * kWidth;
    if (map.channels_last) {
      const T* source = map.data + (y * map.width + begin) * map.channels + channel;
      for (int64_t x = 0; x < count; ++x, source += map.channels, target += kWidth) {
        if (channels == kWidth) {
          Line<T, L>::load(source).store(target);
        } else {
          for (int64_t c = 0; c < kWidth; ++c) target[c] = c < channels ? source[c] : T(0);
        }
      }
    } else {
      const int64_t plane = map.height * map.width;
      if (channels < kWidth) std::fill(target, target + count * kWidth, T(0));
      transpose<T, L>(map.data + channel * plane + y * map.width + begin, plane, channels, count,
                      target, kWidth);
    }
    Line<T, L>().store(row + map.width * kWidth);
  }
}

template <class T, class L>
void clear_lines(const FeatureMap<T>& map, const RowRanges& ranges, T* lines) {
  for (int64_t y = 0; y < map.height; ++y) {
    T* row = lines + y * (map.width + 1) * kLanes<T>;
    for (int64_t x = ranges.begin[y]; x < ranges.end[y]; ++x) {
      Line<T, L>().store(row + x * kLanes<T>);
    }
  }
}

// The reverse of pack_map. With `fresh`, everything outside the ranges becomes zero.
template <class T, class L>
void unpack_map(const FeatureMap<T>& map, int64_t channel, int64_t channels,
                const RowRanges& ranges, const T* lines, bool fresh) {
  constexpr int64_t kWidth = kLanes<T>;
  for (int64_t y = 0; y < map.height; ++y) {
    const int64_t begin = ranges.begin[y], end = ranges.end[y];
    const T* source = lines + (y * (map.width + 1) + begin) * kWidth;
    if (map.channels_last) {
      T* row = map.data + y * map.width * map.channels + channel;
      for (int64_t x = 0; x < map.width; ++x, row += map.channels) {
        if (x >= begin && x < end) {
          std::copy_n(source + (x - begin) * kWidth, channels, row);
        } else if (fresh) {
          std::fill_n(row, channels, T(0));
        }
      }
    } else {
      const int64_t plane = map.height * map.width;
      T* row = map.data + channel * plane + y * map.width;
      if (fresh) {
        for (int64_t c = 0; c < channels; ++c) {
          std::fill(row + c * plane, row + c * plane + begin, T(0));
          std::fill(row + c * plane + end, row + c * plane + map.width, T(0));
        }
      }
      if (end > begin) {
        transpose<T, L>(source, kWidth, end - begin, channels, row + begin, plane);
      }
    }
  }
}

// The regions begin..end of each map, one stripe of rows after the other, so that the pixels of one
// region are still in the cache for the next.
template <class T>
std::vector<std::vector<int64_t>> regions_by_map(const T* regions,
                                                 const std::vector<int64_t>& map_of_region,
                                                 const std::vector<T>& scales, int64_t begin,
                                                 int64_t end) {
  constexpr T kStripe = 16;
  struct Place {
    int64_t stripe;
    T x;
    int64_t region;
  };
  std::vector<std::vector<Place>> places(scales.size());
  for (int64_t i = begin; i < end; ++i) {
    const T* r = regions + 5 * i;
    const T scale = scales[map_of_region[i]];
    const int64_t stripe = static_cast<int64_t>((r[2] * scale + r[4] * scale) / (2 * kStripe));
    places[map_of_region[i]].push_back({stripe, r[1] + r[3], i});
  }
  std::vector<std::vector<int64_t>> result(scales.size());
  for (size_t map = 0; map < places.size(); ++map) {
    std::stable_sort(places[map].begin(), places[map].end(), [](const Place& a, const Place& b) {
      return a.stripe != b.stripe ? a.stripe < b.stripe : a.x < b.x;
    });
    for (const Place& place : places[map]) result[map].push_back(place.region);
  }
  return result;
}

}  // namespace cvlib
