// roi_pool on the CPU.
//
// In the forward a task is a block of channels of one image, transposed into lines as for
// roi_align; each pixel of a bin costs one load, a comparison and two selections for all channels
// of the block. In the backward a task is some channels of one image: their gradients are set to
// zero, and then every bin adds to its largest pixel, in the order of the regions. These are
// scattered additions of single values, but into planes that fit the cache, and without atomics.
#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "lanes.h"
#include "maps.h"
#include "tensors.h"

namespace cvlib {
namespace {

constexpr int64_t kPlaneBytes = int64_t{1} << 19;  // planes per task of the backward

template <class T>
struct PoolProblem {
  std::vector<FeatureMap<T>> maps;  // one per image
  std::vector<std::vector<int64_t>> regions_of_map;
  const T* regions;
  T scale;
  int64_t bins_y, bins_x, channels;
  T* pooled;        // (regions, channels, bins_y, bins_x)
  int32_t* argmax;  // same shape, or null
};

// Loops over lanes instead of vectors: GCC splits vector comparisons before it knows the width of
// the registers.
template <bool kArgmax, class T>
CVLIB_HOST_DEVICE void keep_larger(const T* __restrict pixel, LaneIndex<T> index,
                                   T* __restrict values, LaneIndex<T>* __restrict places) {
#pragma GCC unroll 1  // an unrolled loop would not be vectorised
  for (int i = 0; i < kLanes<T>; ++i) {
    const bool better = (pixel[i] > values[i]) | (pixel[i] != pixel[i]);
    values[i] = better ? pixel[i] : values[i];
    if constexpr (kArgmax) places[i] = better ? index : places[i];
  }
}

// The largest value of each bin and its first position; NaN is larger than all numbers.
template <bool kArgmax, class T>
void pool_region(const PoolProblem<T>& problem, const FeatureMap<T>& map, const T* region,
                 const T* lines, T* values, LaneIndex<T>* places) {
  constexpr int kWidth = kLanes<T>;
  const PoolAxis<T> y_axis = pool_axis(region[2], region[4], problem.scale, problem.bins_y);
  const PoolAxis<T> x_axis = pool_axis(region[1], region[3], problem.scale, problem.bins_x);
  for (int64_t bin_y = 0; bin_y < problem.bins_y; ++bin_y) {
    const RoiRange ys = bin_pixels(y_axis, bin_y, map.height);
    for (int64_t bin_x = 0; bin_x < problem.bins_x; ++bin_x) {
      const RoiRange xs = bin_pixels(x_axis, bin_x, map.width);
      const bool is_empty = ys.begin >= ys.end || xs.begin >= xs.end;
      T* value = values + (bin_y * problem.bins_x + bin_x) * kWidth;
      std::fill_n(value, kWidth, is_empty ? T(0) : -std::numeric_limits<T>::infinity());
      if constexpr (kArgmax) {
        const int64_t first = is_empty ? -1 : ys.begin * map.width + xs.begin;
        std::fill_n(places + (value - values), kWidth, static_cast<LaneIndex<T>>(first));
      }
    }
    for (int64_t y = ys.begin; y < ys.end; ++y) {
      const T* row = lines + y * (map.width + 1) * kWidth;
      for (int64_t bin_x = 0; bin_x < problem.bins_x; ++bin_x) {
        const RoiRange xs = bin_pixels(x_axis, bin_x, map.width);
        const int64_t bin = (bin_y * problem.bins_x + bin_x) * kWidth;
        for (int64_t x = xs.begin; x < xs.end; ++x) {
          const auto index = static_cast<LaneIndex<T>>(y * map.width + x);
          keep_larger<kArgmax>(row + x * kWidth, index, values + bin, places + bin);
        }
      }
    }
  }
}

template <class T>
RowRanges find_ranges(const PoolProblem<T>& problem, int64_t image) {
  const FeatureMap<T>& map = problem.maps[image];
  RowRanges ranges(map.height);
  for (const int64_t i : problem.regions_of_map[image]) {
    const T* region = problem.regions + 5 * i;
    const PoolAxis<T> y_axis = pool_axis(region[2], region[4], problem.scale, problem.bins_y);
    const PoolAxis<T> x_axis = pool_axis(region[1], region[3], problem.scale, problem.bins_x);
    const int64_t left = bin_pixels(x_axis, 0, map.width).begin;
    const int64_t right = bin_pixels(x_axis, problem.bins_x - 1, map.width).end;
    const int64_t top = bin_pixels(y_axis, 0, map.height).begin;
    const int64_t bottom = bin_pixels(y_axis, problem.bins_y - 1, map.height).end;
    if (left >= right) continue;
    for (int64_t y = top; y < bottom; ++y) ranges.include(y, left, right - 1);
  }
  ranges.round_to_lines(map.width, kLanes<T>);
  return ranges;
}

template <bool kArgmax, class T, class L>
void pool_block(const PoolProblem<T>& problem, int64_t image, int64_t channel,
                const RowRanges& ranges, T* lines, T* values, LaneIndex<T>* places) {
  const FeatureMap<T>& map = problem.maps[image];
  const int64_t channels = std::min<int64_t>(kLanes<T>, problem.channels - channel);
  const int64_t count = problem.bins_y * problem.bins_x;
  pack_map<T, L>(map, channel, channels, ranges, lines);
  for (const int64_t i : problem.regions_of_map[image]) {
    pool_region<kArgmax, T>(problem, map, problem.regions + 5 * i, lines, values, places);
    const int64_t offset = (i * problem.channels + channel) * count;
    transpose<T, L>(values, kLanes<T>, count, channels, problem.pooled + offset, count);
    if constexpr (kArgmax && sizeof(T) == sizeof(int32_t)) {
      transpose<int32_t, L>(places, kLanes<T>, count, channels, problem.argmax + offset, count);
    } else if constexpr (kArgmax) {
      for (int64_t j = 0; j < channels * count; ++j) {
        problem.argmax[offset + j] =
            static_cast<int32_t>(places[j % count * kLanes<T> + j / count]);
      }
    }
  }
}

template <bool kArgmax, class T>
void pool_forward(const PoolProblem<T>& problem) {
  const int64_t images = static_cast<int64_t>(problem.maps.size());
  const int64_t blocks = (problem.channels + kLanes<T> - 1) / kLanes<T>;
  const int64_t count = problem.bins_y * problem.bins_x;
  std::vector<RowRanges> ranges;
  for (int64_t image = 0; image < images; ++image) ranges.push_back(find_ranges(problem, image));
  parallel_for(blocks * images, 1, [&](int64_t first, int64_t last) {
    const LineBuffer<T> lines(problem.maps[0].height * (problem.maps[0].width + 1)), values(count);
    const LineBuffer<LaneIndex<T>> places(count);
    with_best_instructions([&](auto level) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t image = i % images;
        if (problem.regions_of_map[image].empty()) continue;
        pool_block<kArgmax, T, decltype(level)>(problem, image, i / images * kLanes<T>,
                                                ranges[image], lines.get(), values.get(),
                                                places.get());
      }
    });
  });
}

// Adds the gradients of some channels of one image to the largest pixels of the bins.
template <class T>
void scatter_channels(const PoolProblem<T>& problem, int64_t image, int64_t begin, int64_t end) {
  const FeatureMap<T>& map = problem.maps[image];
  const int64_t plane = map.height * map.width, count = problem.bins_y * problem.bins_x;
  const int64_t pixel_stride = map.channels_last ? map.channels : 1;
  const int64_t channel_stride = map.channels_last ? 1 : plane;
  if (map.channels_last) {
    for (int64_t i = 0; i < plane; ++i) {
      std::fill_n(map.data + i * map.channels + begin, end - begin, T(0));
    }
  } else {
    std::fill(map.data + begin * plane, map.data + end * plane, T(0));
  }
  for (const int64_t region : problem.regions_of_map[image]) {
    for (int64_t c = begin; c < end; ++c) {
      const T* grad = problem.pooled + (region * problem.channels + c) * count;
      const int32_t* place = problem.argmax + (region * problem.channels + c) * count;
      T* target = map.data + c * channel_stride;
      for (int64_t i = 0; i < count; ++i) {
        // A caller's argmax may point out of the map.
        if (place[i] >= 0 && place[i] < plane) target[place[i] * pixel_stride] += grad[i];
      }
    }
  }
}

template <class T>
void pool_backward(const PoolProblem<T>& problem) {
  const int64_t images = static_cast<int64_t>(problem.maps.size());
  const FeatureMap<T>& map = problem.maps[0];
  const int64_t plane = std::max<int64_t>(map.height * map.width, 1);
  int64_t step =
      std::clamp<int64_t>(kPlaneBytes / (plane * static_cast<int64_t>(sizeof(T))), 1, kLanes<T>);
  if (map.channels_last) step = kLanes<T>;
  const int64_t blocks = (problem.channels + step - 1) / step;
  parallel_for(blocks * images, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i / images * step;
      scatter_channels(problem, i % images, begin, std::min(begin + step, problem.channels));
    }
  });
}

template <class T>
PoolProblem<T> make_problem(const Tensor& maps, const Tensor& regions, const Tensor& pooled) {
  PoolProblem<T> problem{};
  for (int64_t image = 0; image < maps.size(0); ++image) {
    problem.maps.push_back(map_of<T>(maps, image));
  }
  problem.regions = data<T>(regions);
  problem.channels = maps.size(1);
  problem.bins_y = pooled.size(2);
  problem.bins_x = pooled.size(3);
  problem.pooled = const_cast<T*>(data<T>(pooled));
  problem.regions_of_map.resize(problem.maps.size());
  return problem;
}

template <class T>
void sort_regions(PoolProblem<T>& problem, int64_t count, double spatial_scale) {
  const int64_t images = static_cast<int64_t>(problem.maps.size());
  problem.scale = static_cast<T>(spatial_scale);
  bool valid = true;
  std::vector<int64_t> image_of_region(count);
  for (int64_t i = 0; i < count; ++i) {
    const T* region = problem.regions + 5 * i;
    valid = valid && is_region(region, images, problem.scale);
    image_of_region[i] = valid ? static_cast<int64_t>(region[0]) : 0;
  }
  check_values(valid);
  problem.regions_of_map = regions_by_map(problem.regions, image_of_region,
                                          std::vector<T>(images, problem.scale), 0, count);
}

std::tuple<Tensor, Tensor> roi_pool_cpu(const Tensor& input, const Tensor& regions, int64_t bins_y,
                                        int64_t bins_x, double spatial_scale, bool with_argmax) {
  check_roi_arguments(input, regions, bins_y, bins_x);
  check_plane(input.size(2), input.size(3));
  const ScalarType type = real_type(input.scalar_type());
  const Tensor maps = as_dense(input), rows = as_contiguous(as_type(regions, type));
  const int64_t count = rows.size(0), channels = maps.size(1);
  Tensor out = empty(maps, {count, channels, bins_y, bins_x}, type);
  Tensor argmax = with_argmax ? empty(maps, {count, channels, bins_y, bins_x}, ScalarType::Int)
                              : empty(maps, {0}, ScalarType::Int);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    PoolProblem<T> problem = make_problem<T>(maps, rows, out);
    sort_regions(problem, count, spatial_scale);
    if (count == 0 || channels == 0) return;
    if (with_argmax) {
      problem.argmax = mutable_data<int32_t>(argmax);
      pool_forward<true>(problem);
    } else {
      pool_forward<false>(problem);
    }
  });
  return {as_type(out, input.scalar_type()), argmax};
}

Tensor roi_pool_backward_cpu(const Tensor& grad, const Tensor& argmax, const Tensor& regions,
                             int64_t batch, int64_t height, int64_t width, double spatial_scale,
                             bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  check_plane(height, width);
  check_argmax(grad, argmax, regions);
  const ScalarType type = real_type(grad.scalar_type());
  const Tensor pooled = as_contiguous(as_type(grad, type)),
               rows = as_contiguous(as_type(regions, type));
  const Tensor places = as_contiguous(argmax);
  const Tensor out = empty_map(grad, batch, grad.size(1), height, width, type, channels_last);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    PoolProblem<T> problem = make_problem<T>(out, rows, pooled);
    sort_regions(problem, rows.size(0), spatial_scale);
    problem.argmax = const_cast<int32_t*>(data<int32_t>(places));
    if (batch > 0 && problem.channels > 0) pool_backward(problem);
  });
  return as_type(out, grad.scalar_type());
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&cvlib::roi_pool_cpu));
  m.impl("roi_pool_backward", TORCH_BOX(&cvlib::roi_pool_backward_cpu));
}
