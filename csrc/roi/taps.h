// Pixels and weights of regions on the CPU, computed once for all channels.
//
// Along an axis, neighbouring samples share pixels. Their weights are summed, so that a pixel is
// read once per bin that needs it, or once altogether.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "maps.h"
#include "region.h"

namespace cvlib {

template <class T>
struct RoiTap {
  int32_t index;  // the pixel of a tap of a bin, or the bin of a tap of a pixel
  T weight;
};

struct Pixel {
  int32_t index;
  int32_t end;  // end of its taps, which begin at the end of those of the pixel before
};

// The taps of one axis, bin after bin.
template <class T>
struct BinTaps {
  std::vector<RoiTap<T>> taps;
  std::vector<int32_t> ends;

  void build(const SampleAxis<T>& axis, int64_t bins, int64_t size) {
    taps.clear();
    ends.clear();
    for (int64_t bin = 0; bin < bins; ++bin) {
      const size_t begin = taps.size();
      const RoiRange inside = samples_inside(axis, bin, size);
      const T share = T(1) / static_cast<T>(axis.samples);
      for (int64_t i = inside.begin; i < inside.end; ++i) {
        const Neighbours<T> n = neighbours(sample_position(axis, bin, i), size);
        add(begin, n.low, n.low_weight * share);
        add(begin, n.high, n.high_weight * share);
      }
      ends.push_back(static_cast<int32_t>(taps.size()));
    }
  }

 private:
  // Positions never decrease, so a pixel that exists already is one of the last two. Pixels of
  // weight 0 are left out, because they may be infinite.
  void add(size_t begin, int64_t pixel, T weight) {
    if (weight == T(0)) return;
    for (size_t back = 1; back <= 2 && begin + back <= taps.size(); ++back) {
      RoiTap<T>& tap = taps[taps.size() - back];
      if (tap.index == pixel) {
        tap.weight += weight;
        return;
      }
    }
    taps.push_back({static_cast<int32_t>(pixel), weight});
  }
};

// Taps of one region, as positions in the vectors of its group.
struct RegionTaps {
  int64_t region;
  int64_t rows, num_rows, row_taps;  // pixels and their taps
  int64_t columns, num_columns,
      column_width;                   // taps per column, padded with weight 0
  int64_t column_pixels;              // pixel of each column, if columns are pixels
  int32_t first_column, last_column;  // in the map; first > last if there is none
};

template <class T>
struct TapGroup {
  int64_t map = 0;
  std::vector<RegionTaps> regions;
  std::vector<Pixel> rows;
  std::vector<RoiTap<T>> row_taps, column_taps;
  std::vector<int32_t> column_pixels;
};

// Turns taps of bins into taps of pixels, lowest pixel first, by counting.
template <class T>
class PixelSort {
 public:
  void append(const BinTaps<T>& source, std::vector<Pixel>& pixels, std::vector<RoiTap<T>>& taps) {
    if (source.taps.empty()) return;
    int32_t low = INT32_MAX, high = 0;
    for (const RoiTap<T>& tap : source.taps) {
      low = std::min(low, tap.index);
      high = std::max(high, tap.index);
    }
    ends_.assign(static_cast<size_t>(high) - low + 2, 0);
    for (const RoiTap<T>& tap : source.taps) ++ends_[tap.index - low + 1];
    for (size_t i = 1; i < ends_.size(); ++i) {
      const bool used = ends_[i] > 0;
      ends_[i] += ends_[i - 1];
      if (used) pixels.push_back({low + static_cast<int32_t>(i) - 1, ends_[i]});
    }
    const size_t base = taps.size();
    taps.resize(base + source.taps.size());
    size_t next = 0;
    for (size_t bin = 0; bin < source.ends.size(); ++bin) {
      for (; next < static_cast<size_t>(source.ends[bin]); ++next) {
        const RoiTap<T>& tap = source.taps[next];
        taps[base + ends_[tap.index - low]++] = {static_cast<int32_t>(bin), tap.weight};
      }
    }
  }

 private:
  std::vector<int32_t> ends_;
};

// Appends the runs of taps that end at `ends`, padded to the longest with {padding, 0}. Returns
// that length.
template <class T, class Ends>
int64_t append_padded(std::span<const RoiTap<T>> taps, const Ends& ends, int64_t count,
                      int32_t padding, std::vector<RoiTap<T>>& target) {
  int32_t longest = 0;
  for (int64_t i = 0; i < count; ++i) longest = std::max(longest, ends(i) - (i ? ends(i - 1) : 0));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t begin = i ? ends(i - 1) : 0, end = ends(i);
    target.insert(target.end(), taps.begin() + begin, taps.begin() + end);
    target.insert(target.end(), longest - (end - begin), RoiTap<T>{padding, T(0)});
  }
  return longest;
}

// In the forward, columns are bins with taps of pixels; in the backward, pixels with taps of bins.
enum class Columns { kBins, kPixels };

template <class T>
class TapBuilder {
 public:
  TapBuilder(const AlignRule& rule, Columns columns) : rule_(rule), columns_(columns) {}

  void append(const T* r, int64_t region, T scale, int64_t height, int64_t width,
              TapGroup<T>& group) {
    RegionTaps entry{};
    entry.region = region;
    entry.rows = static_cast<int64_t>(group.rows.size());
    entry.row_taps = static_cast<int64_t>(group.row_taps.size());
    bins_.build(axis(r[2], r[4], scale, rule_.bins_y), rule_.bins_y, height);
    sort_.append(bins_, group.rows, group.row_taps);
    entry.num_rows = static_cast<int64_t>(group.rows.size()) - entry.rows;
    bins_.build(axis(r[1], r[3], scale, rule_.bins_x), rule_.bins_x, width);
    entry.first_column = INT32_MAX;
    entry.last_column = -1;
    for (const RoiTap<T>& tap : bins_.taps) {
      entry.first_column = std::min(entry.first_column, tap.index);
      entry.last_column = std::max(entry.last_column, tap.index);
    }
    entry.columns = static_cast<int64_t>(group.column_taps.size());
    entry.column_pixels = static_cast<int64_t>(group.column_pixels.size());
    append_columns(width, entry, group);
    group.regions.push_back(entry);
  }

 private:
  SampleAxis<T> axis(T low, T high, T scale, int64_t bins) const {
    return sample_axis(low, high, scale, rule_.aligned, bins, rule_.sampling_ratio);
  }

  void append_columns(int64_t width, RegionTaps& entry, TapGroup<T>& group) {
    if (columns_ == Columns::kBins) {
      entry.num_columns = rule_.bins_x;
      entry.column_width = append_padded<T>(
          bins_.taps, [&](int64_t i) { return bins_.ends[i]; }, entry.num_columns,
          static_cast<int32_t>(width), group.column_taps);
      return;
    }
    pixels_.clear();
    pixel_taps_.clear();
    sort_.append(bins_, pixels_, pixel_taps_);
    entry.num_columns = static_cast<int64_t>(pixels_.size());
    entry.column_width = append_padded<T>(
        pixel_taps_, [&](int64_t i) { return pixels_[i].end; }, entry.num_columns,
        static_cast<int32_t>(rule_.bins_x), group.column_taps);
    for (const Pixel& pixel : pixels_) group.column_pixels.push_back(pixel.index);
  }

  AlignRule rule_;
  Columns columns_;
  BinTaps<T> bins_;
  PixelSort<T> sort_;
  std::vector<Pixel> pixels_;
  std::vector<RoiTap<T>> pixel_taps_;
};

}  // namespace cvlib
