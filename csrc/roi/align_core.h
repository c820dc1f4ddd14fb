// roi_align and its gradient on the CPU, for any number of maps (images, levels of a pyramid).
//
// A task is a block of channels of one map: as many as fill a cache line. The part of the map that
// regions read is transposed into lines (pack_map), 64 bytes per pixel, so that every tap of every
// region is one load and one multiply-add for all channels of the block. In the backward the lines
// are sums, written by one thread, region after region: no atomics, and no dependence on the number
// of threads. Cost: one pass over the map and, per region and block, rows x columns taps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "lanes.h"
#include "maps.h"
#include "taps.h"

namespace cvlib {

template <class T>
struct AlignProblem {
  std::vector<FeatureMap<T>> maps;
  std::vector<T> scales;  // spatial scale of each map
  const T* regions;
  std::vector<int64_t> map_of_region;
  AlignRule rule;
  int64_t channels;
  T* pooled;  // (regions, channels, bins_y, bins_x): the result, or its gradient
};

constexpr int64_t kRegionsPerGroup = 16;
constexpr int64_t kTapBytes = int64_t{1} << 26;  // memory of the taps that are kept at a time

// Adds the taps of one region into `bins`, kWidth taps per bin (0: a number known at run time).
template <int kWidth, class T, class L>
void gather_region(const TapGroup<T>& group, const RegionTaps& region, const T* lines,
                   int64_t row_lines, T* bins) {
  const int64_t bins_x = region.num_columns;
  const int64_t width = kWidth > 0 ? kWidth : region.column_width;
  const RoiTap<T>* row_taps = group.row_taps.data() + region.row_taps;
  int32_t begin = 0;
  for (int64_t y = 0; y < region.num_rows; ++y) {
    const Pixel row = group.rows[region.rows + y];
    const T* pixels = lines + row.index * row_lines * kLanes<T>;
    const RoiTap<T>* tap = group.column_taps.data() + region.columns;
    for (int64_t x = 0; x < bins_x; ++x) {
      Line<T, L> sum;
      for (int64_t i = 0; i < width; ++i, ++tap) {
        sum.add(tap->weight, Line<T, L>::load(pixels + int64_t{tap->index} * kLanes<T>));
      }
      for (int32_t use = begin; use < row.end; ++use) {
        T* bin = bins + (row_taps[use].index * bins_x + x) * kLanes<T>;
        Line<T, L> total = Line<T, L>::load(bin);
        total.add(row_taps[use].weight, sum);
        total.store(bin);
      }
    }
    begin = row.end;
  }
}

// The reverse: adds the gradients of the bins to the lines of the pixels. `row_sums` has one line
// per bin of a row and one more, of zeros.
template <int kWidth, class T, class L>
void scatter_region(const TapGroup<T>& group, const RegionTaps& region, const T* bins,
                    int64_t bins_x, T* row_sums, T* lines, int64_t row_lines) {
  const int64_t width = kWidth > 0 ? kWidth : region.column_width;
  const RoiTap<T>* row_taps = group.row_taps.data() + region.row_taps;
  const int32_t* pixels = group.column_pixels.data() + region.column_pixels;
  int32_t begin = 0;
  for (int64_t y = 0; y < region.num_rows; ++y) {
    const Pixel row = group.rows[region.rows + y];
    for (int64_t x = 0; x < bins_x; ++x) {
      Line<T, L> sum;
      for (int32_t use = begin; use < row.end; ++use) {
        const T* bin = bins + (row_taps[use].index * bins_x + x) * kLanes<T>;
        sum.add(row_taps[use].weight, Line<T, L>::load(bin));
      }
      sum.store(row_sums + x * kLanes<T>);
    }
    begin = row.end;
    T* row_lines_begin = lines + row.index * row_lines * kLanes<T>;
    const RoiTap<T>* tap = group.column_taps.data() + region.columns;
    for (int64_t x = 0; x < region.num_columns; ++x) {
      T* pixel = row_lines_begin + int64_t{pixels[x]} * kLanes<T>;
      Line<T, L> sum = Line<T, L>::load(pixel);
      for (int64_t i = 0; i < width; ++i, ++tap) {
        sum.add(tap->weight, Line<T, L>::load(row_sums + int64_t{tap->index} * kLanes<T>));
      }
      sum.store(pixel);
    }
  }
}

// Calls function(std::integral_constant) with the width if it is a common one, otherwise with 0:
// loops of a short length known at compile time are unrolled.
template <class Function>
void with_width(int64_t width, const Function& function) {
  switch (width) {
    case 1:
      return function(std::integral_constant<int, 1>{});
    case 2:
      return function(std::integral_constant<int, 2>{});
    case 3:
      return function(std::integral_constant<int, 3>{});
    case 4:
      return function(std::integral_constant<int, 4>{});
    default:
      return function(std::integral_constant<int, 0>{});
  }
}

// A block of channels of one map, for some of its regions.
template <class T>
struct AlignTask {
  const AlignProblem<T>& problem;
  const FeatureMap<T>& map;
  std::span<const TapGroup<T>> groups;
  const RowRanges& ranges;
  int64_t channel, channels;
  T* lines;  // memory for the lines of the map
  T* bins;   // memory for one region and a row of bins
  bool first;

  template <class L>
  void forward(L) const {
    const AlignRule& rule = problem.rule;
    const int64_t count = rule.bins_y * rule.bins_x;
    pack_map<T, L>(map, channel, channels, ranges, lines);
    for (const TapGroup<T>& group : groups) {
      for (const RegionTaps& region : group.regions) {
        for (int64_t i = 0; i < count; ++i) Line<T, L>().store(bins + i * kLanes<T>);
        with_width(region.column_width, [&](auto width) {
          gather_region<decltype(width)::value, T, L>(group, region, lines, map.width + 1, bins);
        });
        T* result = problem.pooled + (region.region * problem.channels + channel) * count;
        transpose<T, L>(bins, kLanes<T>, count, channels, result, count);
      }
    }
  }

  template <class L>
  void backward(L) const {
    const AlignRule& rule = problem.rule;
    const int64_t count = rule.bins_y * rule.bins_x;
    T* row_sums = bins + count * kLanes<T>;
    Line<T, L>().store(row_sums + rule.bins_x * kLanes<T>);
    if (channels < kLanes<T>) std::fill(bins, row_sums, T(0));
    if (first) {
      clear_lines<T, L>(map, ranges, lines);
    } else {
      pack_map<T, L>(map, channel, channels, ranges, lines);
    }
    for (const TapGroup<T>& group : groups) {
      for (const RegionTaps& region : group.regions) {
        const T* grad = problem.pooled + (region.region * problem.channels + channel) * count;
        transpose<T, L>(grad, count, channels, count, bins, kLanes<T>);
        with_width(region.column_width, [&](auto width) {
          scatter_region<decltype(width)::value, T, L>(group, region, bins, rule.bins_x, row_sums,
                                                       lines, map.width + 1);
        });
      }
    }
    unpack_map<T, L>(map, channel, channels, ranges, lines, first);
  }
};

// Number of regions whose taps fit into kTapBytes.
template <class T>
int64_t regions_at_a_time(const AlignProblem<T>& problem) {
  int64_t max_taps = 0;
  const AlignRule& rule = problem.rule;
  for (const FeatureMap<T>& map : problem.maps) {
    max_taps = std::max(max_taps, map.height + map.width + 3 * (rule.bins_y + rule.bins_x));
  }
  return std::max<int64_t>(kTapBytes / (max_taps * 2 * static_cast<int64_t>(sizeof(RoiTap<T>)) + 1),
                           64);
}

template <class T>
std::vector<TapGroup<T>> make_groups(const AlignProblem<T>& problem, int64_t begin, int64_t end,
                                     Columns columns) {
  const auto members =
      regions_by_map(problem.regions, problem.map_of_region, problem.scales, begin, end);
  std::vector<TapGroup<T>> groups;
  std::vector<std::span<const int64_t>> shares;
  for (size_t map = 0; map < members.size(); ++map) {
    const std::span<const int64_t> all = members[map];
    for (size_t first = 0; first < all.size(); first += kRegionsPerGroup) {
      groups.emplace_back().map = static_cast<int64_t>(map);
      shares.push_back(all.subspan(first, std::min<size_t>(kRegionsPerGroup, all.size() - first)));
    }
  }
  parallel_for(static_cast<int64_t>(groups.size()), 1, [&](int64_t first, int64_t last) {
    TapBuilder<T> builder(problem.rule, columns);
    for (int64_t i = first; i < last; ++i) {
      const FeatureMap<T>& map = problem.maps[groups[i].map];
      for (const int64_t region : shares[i]) {
        builder.append(problem.regions + 5 * region, region, problem.scales[groups[i].map],
                       map.height, map.width, groups[i]);
      }
    }
  });
  return groups;
}

template <class T>
RowRanges find_ranges(const FeatureMap<T>& map, std::span<const TapGroup<T>> groups) {
  RowRanges ranges(map.height);
  for (const TapGroup<T>& group : groups) {
    for (const RegionTaps& region : group.regions) {
      if (region.first_column > region.last_column) continue;
      for (int64_t y = 0; y < region.num_rows; ++y) {
        ranges.include(group.rows[region.rows + y].index, region.first_column, region.last_column);
      }
    }
  }
  ranges.round_to_lines(map.width, kLanes<T>);
  return ranges;
}

// Calls work(task) for every block of channels of every map, in parallel.
template <class T, class Work>
void for_each_task(const AlignProblem<T>& problem, Columns columns, const Work& work) {
  const int64_t total = static_cast<int64_t>(problem.map_of_region.size());
  const int64_t num_maps = static_cast<int64_t>(problem.maps.size());
  const int64_t num_blocks = (problem.channels + kLanes<T> - 1) / kLanes<T>;
  const int64_t count = problem.rule.bins_y * problem.rule.bins_x;
  const int64_t step = regions_at_a_time(problem);
  int64_t most_lines = 0;
  for (const FeatureMap<T>& map : problem.maps) {
    most_lines = std::max(most_lines, map.height * (map.width + 1));
  }
  for (int64_t begin = 0; begin == 0 || begin < total; begin += step) {
    const std::vector<TapGroup<T>> groups =
        make_groups(problem, begin, std::min(begin + step, total), columns);
    std::vector<std::span<const TapGroup<T>>> of_map(num_maps);
    for (size_t i = 0, next = 0; i < groups.size(); i = next) {
      while (next < groups.size() && groups[next].map == groups[i].map) ++next;
      of_map[groups[i].map] = std::span(groups).subspan(i, next - i);
    }
    std::vector<RowRanges> ranges;
    for (int64_t map = 0; map < num_maps; ++map) {
      ranges.push_back(find_ranges(problem.maps[map], of_map[map]));
    }
    parallel_for(num_blocks * num_maps, 1, [&](int64_t first, int64_t last) {
      const LineBuffer<T> lines(most_lines), bins(count + problem.rule.bins_x + 1);
      for (int64_t i = first; i < last; ++i) {
        const int64_t map = i % num_maps, channel = i / num_maps * kLanes<T>;
        const int64_t channels = std::min<int64_t>(kLanes<T>, problem.channels - channel);
        work(AlignTask<T>{problem, problem.maps[map], of_map[map], ranges[map], channel, channels,
                          lines.get(), bins.get(), begin == 0});
      }
    });
  }
}

template <class T>
void align_forward(const AlignProblem<T>& problem) {
  for_each_task(problem, Columns::kBins, [](const AlignTask<T>& task) {
    if (task.groups.empty()) return;
    with_best_instructions([&](auto level) { task.forward(level); });
  });
}

template <class T>
void align_backward(const AlignProblem<T>& problem) {
  for_each_task(problem, Columns::kPixels, [](const AlignTask<T>& task) {
    with_best_instructions([&](auto level) { task.backward(level); });
  });
}

}  // namespace cvlib
