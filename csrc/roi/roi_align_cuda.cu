// roi_align on CUDA, for one map or a pyramid.
//
// Forward: a thread owns one bin of one region and loops over some channels; samples are computed
// again for each channel, which costs less than storing them. Neighbouring threads own neighbouring
// bins, or neighbouring channels of a channels-last map.
//
// The backward gathers, so that no atomics are needed: a block owns a tile of pixels of one map and
// some channels. It goes through the regions in order, 256 at a time; those that touch the tile are
// listed in shared memory, in order, and for each of them the weights of the tile's rows and
// columns are computed once for all channels. Additions are always in the order of the regions.
#include <vector>

#include "../checks.h"
#include "../cuda_launch.cuh"
#include "region.h"
#include "tensors.h"

namespace cvlib {
namespace {

constexpr int kMaxLevels = 16;
constexpr int kTileHeight = 8;
constexpr int kTileWidth = kThreads / kTileHeight;
constexpr int kChannelsPerThread = 8;
constexpr int kChannelsForward = 16;

// Passed by value to the kernels.
template <class T>
struct Maps {
  T* data[kMaxLevels];
  int64_t height[kMaxLevels], width[kMaxLevels];
  T scale[kMaxLevels];
  double smallest_area[kMaxLevels];
  int64_t levels, images, channels;
  bool channels_last;
};

template <class T>
__device__ SampleAxis<T> axis_of(T low, T high, T scale, const AlignRule& rule, int64_t bins) {
  return sample_axis(low, high, scale, rule.aligned, bins, rule.sampling_ratio);
}

template <class T, bool kChannelsLast>
__global__ void forward_kernel(Maps<T> maps, const T* __restrict__ regions, int64_t count,
                               AlignRule rule, T* __restrict__ out) {
  const int64_t bins = rule.bins_y * rule.bins_x;
  const int64_t groups = (maps.channels + kChannelsForward - 1) / kChannelsForward;
  const int64_t total = count * groups * bins * (kChannelsLast ? kChannelsForward : 1);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += step) {
    // Channels-last: one thread per channel. Otherwise the bins vary fastest, and a thread has a
    // group of channels.
    const int64_t lane = kChannelsLast ? i % kChannelsForward : 0;
    const int64_t rest = kChannelsLast ? i / kChannelsForward : i;
    const int64_t bin = rest % bins, group = rest / bins % groups, k = rest / bins / groups;
    const int64_t first = group * kChannelsForward + lane;
    int64_t last = kChannelsLast ? first + 1 : first + kChannelsForward;
    if (last > maps.channels) last = maps.channels;
    const T* region = regions + 5 * k;
    const int64_t level = choose_level(region, maps.smallest_area, maps.levels);
    const T scale = maps.scale[level];
    const bool valid = is_region(region, maps.images, scale);
    const int64_t height = maps.height[level], width = maps.width[level];
    const int64_t bin_y = bin / rule.bins_x, bin_x = bin % rule.bins_x;
    SampleAxis<T> y_axis{T(0), T(0), 0}, x_axis{T(0), T(0), 0};
    if (valid) {
      y_axis = axis_of(region[2], region[4], scale, rule, rule.bins_y);
      x_axis = axis_of(region[1], region[3], scale, rule, rule.bins_x);
    }
    const RoiRange ys = samples_inside(y_axis, bin_y, height);
    const RoiRange xs = samples_inside(x_axis, bin_x, width);
    const int64_t samples = y_axis.samples * x_axis.samples;
    const T share = samples > 0 ? T(1) / static_cast<T>(samples) : T(0);
    const int64_t image = valid ? static_cast<int64_t>(region[0]) : 0;
    const int64_t pixel_stride = kChannelsLast ? maps.channels : 1;
    const int64_t plane = height * width;
    for (int64_t c = first; c < last; ++c) {
      const T* values =
          maps.data[level] + image * maps.channels * plane + (kChannelsLast ? c : c * plane);
      T sum = T(0);
      for (int64_t iy = ys.begin; iy < ys.end; ++iy) {
        const Neighbours<T> y = neighbours(sample_position(y_axis, bin_y, iy), height);
        for (int64_t ix = xs.begin; ix < xs.end; ++ix) {
          const Neighbours<T> x = neighbours(sample_position(x_axis, bin_x, ix), width);
          const T* top = values + y.low * width * pixel_stride;
          const T* bottom = values + y.high * width * pixel_stride;
          // A pixel of weight 0 is not read, because it may be infinite.
          T upper = x.low_weight * top[x.low * pixel_stride];
          if (x.high_weight > T(0)) upper += x.high_weight * top[x.high * pixel_stride];
          sum += y.low_weight * upper;
          if (y.high_weight > T(0)) {
            T lower = x.low_weight * bottom[x.low * pixel_stride];
            if (x.high_weight > T(0)) lower += x.high_weight * bottom[x.high * pixel_stride];
            sum += y.high_weight * lower;
          }
        }
      }
      out[(k * maps.channels + c) * bins + bin] = sum * share;
    }
  }
}

// The first sample of a bin at or beyond `position`, among those in `range`.
template <class T>
__device__ int64_t first_at(const SampleAxis<T>& axis, int64_t bin, RoiRange range, T position) {
  int64_t low = range.begin, high = range.end;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sample_position(axis, bin, middle) < position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Weight of one pixel of an axis in one bin: only samples less than a pixel away contribute.
template <class T>
__device__ T pixel_weight(const SampleAxis<T>& axis, int64_t bin, int64_t pixel, int64_t size) {
  const RoiRange inside = samples_inside(axis, bin, size);
  T weight = T(0);
  for (int64_t i = first_at(axis, bin, inside, static_cast<T>(pixel - 1)); i < inside.end; ++i) {
    const T position = sample_position(axis, bin, i);
    if (position >= static_cast<T>(pixel + 1) && pixel < size - 1) break;
    const Neighbours<T> n = neighbours(position, size);
    if (n.low == pixel) {
      weight += n.low_weight;
    } else if (n.high == pixel) {
      weight += n.high_weight;
    }
  }
  return axis.samples > 0 ? weight / static_cast<T>(axis.samples) : T(0);
}

// The first and last pixels that a region may touch along an axis, both included, with a margin
// where the positions of samples are rounded to more than a pixel.
template <class T>
__device__ RoiRange touched_pixels(const SampleAxis<T>& axis, int64_t bins, int64_t size) {
  constexpr T kEpsilon = sizeof(T) == sizeof(float) ? T(1e-6) : T(2e-15);
  const T length = axis.bin * static_cast<T>(bins), last = static_cast<T>(size - 1);
  const T slack = T(2) + (std::fabs(axis.start) + length) * kEpsilon;
  return {static_cast<int64_t>(smaller(larger(axis.start - slack, T(0)), last)),
          static_cast<int64_t>(smaller(larger(axis.start + length + slack, T(0)), last))};
}

template <class T>
struct Tile {
  int64_t level, image, top, left;
};

// The tiles of all levels: level 0 comes first, image after image.
template <class T>
__device__ Tile<T> tile_of(const Maps<T>& maps, int64_t index) {
  int64_t level = 0;
  for (;; ++level) {
    const int64_t rows = (maps.height[level] + kTileHeight - 1) / kTileHeight;
    const int64_t columns = (maps.width[level] + kTileWidth - 1) / kTileWidth;
    const int64_t tiles = rows * columns * maps.images;
    if (index >= tiles) {
      index -= tiles;
      continue;
    }
    return {level, index / (rows * columns), index / columns % rows * kTileHeight,
            index % columns * kTileWidth};
  }
}

template <class T>
__device__ bool touches(const Maps<T>& maps, const Tile<T>& tile, const AlignRule& rule,
                        const T* region) {
  const T scale = maps.scale[tile.level];
  if (choose_level(region, maps.smallest_area, maps.levels) != tile.level) return false;
  if (!is_region(region, maps.images, scale)) return false;
  if (static_cast<int64_t>(region[0]) != tile.image) return false;
  const RoiRange ys = touched_pixels(axis_of(region[2], region[4], scale, rule, rule.bins_y),
                                     rule.bins_y, maps.height[tile.level]);
  const RoiRange xs = touched_pixels(axis_of(region[1], region[3], scale, rule, rule.bins_x),
                                     rule.bins_x, maps.width[tile.level]);
  return ys.begin < tile.top + kTileHeight && ys.end >= tile.top &&
         xs.begin < tile.left + kTileWidth && xs.end >= tile.left;
}

// Shared memory holds the weights of the tile's rows and columns, [pixel][bin]. Bins are processed
// in chunks of `chunk`, so that any output size fits.
template <class T>
__global__ void backward_kernel(Maps<T> maps, const T* __restrict__ regions, int64_t count,
                                AlignRule rule, const T* __restrict__ grad, int chunk) {
  extern __shared__ __align__(16) unsigned char shared[];  // float or double
  T* row_weights = reinterpret_cast<T*>(shared);
  T* column_weights = row_weights + kTileHeight * chunk;
  __shared__ int64_t members[kThreads];
  __shared__ int warp_counts[kThreads / kWarp];
  const Tile<T> tile = tile_of(maps, blockIdx.x);
  const int64_t height = maps.height[tile.level], width = maps.width[tile.level];
  const int64_t bins = rule.bins_y * rule.bins_x;
  const int row = threadIdx.x / kTileWidth, column = threadIdx.x % kTileWidth;
  const int64_t groups = (maps.channels + kChannelsPerThread - 1) / kChannelsPerThread;
  for (int64_t group = blockIdx.y; group < groups; group += gridDim.y) {
    const int64_t channel = group * kChannelsPerThread;
    T sums[kChannelsPerThread];
#pragma unroll
    for (int c = 0; c < kChannelsPerThread; ++c) sums[c] = T(0);
    for (int64_t base = 0; base < count; base += kThreads) {
      const int64_t candidate = base + threadIdx.x;
      const bool hit = candidate < count && touches(maps, tile, rule, regions + 5 * candidate);
      const unsigned ballot = __ballot_sync(kFullWarp, hit);
      const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
      if (lane == 0) warp_counts[warp] = __popc(ballot);
      __syncthreads();
      int before = 0, found = 0;
      for (int w = 0; w < kThreads / kWarp; ++w) {
        before += w < warp ? warp_counts[w] : 0;
        found += warp_counts[w];
      }
      if (hit) members[before + __popc(ballot & ((1u << lane) - 1))] = candidate;
      __syncthreads();
      for (int m = 0; m < found; ++m) {
        const int64_t k = members[m];
        const T* region = regions + 5 * k;
        const T scale = maps.scale[tile.level];
        const SampleAxis<T> y_axis = axis_of(region[2], region[4], scale, rule, rule.bins_y);
        const SampleAxis<T> x_axis = axis_of(region[1], region[3], scale, rule, rule.bins_x);
        for (int64_t first_y = 0; first_y < rule.bins_y; first_y += chunk) {
          const int chunk_y = static_cast<int>(smaller<int64_t>(chunk, rule.bins_y - first_y));
          for (int64_t first_x = 0; first_x < rule.bins_x; first_x += chunk) {
            const int chunk_x = static_cast<int>(smaller<int64_t>(chunk, rule.bins_x - first_x));
            for (int i = threadIdx.x; i < kTileHeight * chunk_y; i += kThreads) {
              const int64_t y = tile.top + i / chunk_y;
              row_weights[i] =
                  y < height ? pixel_weight(y_axis, first_y + i % chunk_y, y, height) : T(0);
            }
            for (int i = threadIdx.x; i < kTileWidth * chunk_x; i += kThreads) {
              const int64_t x = tile.left + i / chunk_x;
              column_weights[i] =
                  x < width ? pixel_weight(x_axis, first_x + i % chunk_x, x, width) : T(0);
            }
            __syncthreads();
            for (int i = 0; i < chunk_y; ++i) {
              const T weight_y = row_weights[row * chunk_y + i];
              if (!(weight_y > T(0))) continue;
              for (int j = 0; j < chunk_x; ++j) {
                const T weight = weight_y * column_weights[column * chunk_x + j];
                if (!(weight > T(0))) continue;
                const T* source = grad + (k * maps.channels + channel) * bins +
                                  (first_y + i) * rule.bins_x + first_x + j;
#pragma unroll
                for (int c = 0; c < kChannelsPerThread; ++c) {
                  if (channel + c < maps.channels) sums[c] += weight * source[c * bins];
                }
              }
            }
            __syncthreads();
          }
        }
      }
    }
    const int64_t y = tile.top + row, x = tile.left + column;
    if (y < height && x < width) {
      const int64_t plane = height * width;
      T* target = maps.data[tile.level] + tile.image * maps.channels * plane;
#pragma unroll
      for (int c = 0; c < kChannelsPerThread; ++c) {
        if (channel + c < maps.channels) {
          const int64_t pixel = y * width + x;
          target[maps.channels_last ? pixel * maps.channels + channel + c
                                    : (channel + c) * plane + pixel] = sums[c];
        }
      }
    }
  }
}

template <class T>
Maps<T> make_maps(const std::vector<Tensor>& tensors, const Pyramid& pyramid, bool channels_last) {
  STD_TORCH_CHECK(tensors.size() <= kMaxLevels, "expected at most 16 levels");
  Maps<T> maps{};
  for (size_t i = 0; i < tensors.size(); ++i) {
    maps.data[i] = const_cast<T*>(data<T>(tensors[i]));
    maps.height[i] = tensors[i].size(2);
    maps.width[i] = tensors[i].size(3);
    maps.scale[i] = static_cast<T>(pyramid.scales[i]);
    maps.smallest_area[i] = pyramid.smallest_areas[i];
  }
  maps.levels = static_cast<int64_t>(tensors.size());
  maps.images = tensors[0].size(0);
  maps.channels = tensors[0].size(1);
  maps.channels_last = channels_last;
  return maps;
}

Tensor align(const std::vector<Tensor>& features, const Tensor& regions, const Pyramid& pyramid,
             const AlignRule& rule) {
  const DeviceGuard guard(features[0].get_device_index());
  const ScalarType type = real_type(features[0].scalar_type());
  std::vector<Tensor> maps;
  bool channels_last = true;
  for (const Tensor& feature : features) {
    check_roi_arguments(feature, regions, rule.bins_y, rule.bins_x);
    STD_TORCH_CHECK(
        feature.size(0) == features[0].size(0) && feature.size(1) == features[0].size(1),
        "expected maps of equal batch size and channels");
    maps.push_back(as_dense(feature));
    check_same_dtype(maps[0], maps.back());
    channels_last = channels_last && is_dense_channels_last(maps.back());
  }
  // All levels must have one layout.
  if (!channels_last) {
    for (Tensor& map : maps) map = as_contiguous(map);
  }
  const Tensor rows = as_contiguous(as_type(regions, type));
  const int64_t count = rows.size(0), channels = maps[0].size(1), images = maps[0].size(0);
  const int64_t bins = rule.bins_y * rule.bins_x;
  if (images == 0) {
    return as_type(zeros(maps[0], {count, channels, rule.bins_y, rule.bins_x}, type),
                   features[0].scalar_type());
  }
  Tensor out = empty(maps[0], {count, channels, rule.bins_y, rule.bins_x}, type);
  const int64_t groups = (channels + kChannelsForward - 1) / kChannelsForward;
  const int64_t total = count * groups * bins * (channels_last ? kChannelsForward : 1);
  if (total > 0) {
    const unsigned blocks = blocks_for(smaller<int64_t>(total, int64_t{1} << 30));
    dispatch_floating(type, [&](auto zero) {
      using T = decltype(zero);
      const Maps<T> all = make_maps<T>(maps, pyramid, channels_last);
      if (channels_last) {
        forward_kernel<T, true><<<blocks, kThreads, 0, current_stream(maps[0])>>>(
            all, data<T>(rows), count, rule, mutable_data<T>(out));
      } else {
        forward_kernel<T, false><<<blocks, kThreads, 0, current_stream(maps[0])>>>(
            all, data<T>(rows), count, rule, mutable_data<T>(out));
      }
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return as_type(out, features[0].scalar_type());
}

// Writes every element of `maps`.
void align_gradient(const Tensor& grad, const Tensor& regions, const std::vector<Tensor>& maps,
                    const Pyramid& pyramid, const AlignRule& rule, bool channels_last) {
  constexpr int64_t kMaxBins = 64;  // bins of an axis with weights in shared memory at a time
  const ScalarType type = maps[0].scalar_type();
  const Tensor rows = as_contiguous(as_type(regions, type)),
               pooled = as_contiguous(as_type(grad, type));
  const int64_t channels = maps[0].size(1), images = maps[0].size(0);
  int64_t tiles = 0;
  for (const Tensor& map : maps) {
    tiles += static_cast<int64_t>(blocks_for(map.size(2), kTileHeight)) *
             blocks_for(map.size(3), kTileWidth) * images;
  }
  const int64_t groups = (channels + kChannelsPerThread - 1) / kChannelsPerThread;
  if (tiles == 0 || groups == 0) return;
  const int chunk = static_cast<int>(smaller(kMaxBins, larger(rule.bins_y, rule.bins_x)));
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(smaller(groups, kMaxGrid)));
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const size_t bytes = sizeof(T) * static_cast<size_t>(kTileHeight + kTileWidth) * chunk;
    backward_kernel<T><<<grid, kThreads, bytes, current_stream(maps[0])>>>(
        make_maps<T>(maps, pyramid, channels_last), data<T>(rows), rows.size(0), rule,
        data<T>(pooled), chunk);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

Tensor roi_align_cuda(const Tensor& input, const Tensor& regions, int64_t bins_y, int64_t bins_x,
                      double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const AlignRule rule{bins_y, bins_x, sampling_ratio, aligned};
  return align({input}, regions, {{spatial_scale}, {0.0}}, rule);
}

Tensor roi_align_backward_cuda(const Tensor& grad, const Tensor& regions, int64_t batch,
                               int64_t height, int64_t width, double spatial_scale,
                               int64_t sampling_ratio, bool aligned, bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  STD_TORCH_CHECK(grad.size(0) == regions.size(0), "expected as many gradients as regions");
  const DeviceGuard guard(grad.get_device_index());
  const Tensor out = empty_map(grad, batch, grad.size(1), height, width,
                               real_type(grad.scalar_type()), channels_last);
  const AlignRule rule{grad.size(2), grad.size(3), sampling_ratio, aligned};
  align_gradient(grad, regions, {out}, {{spatial_scale}, {0.0}}, rule, channels_last);
  return as_type(out, grad.scalar_type());
}

Tensor multiscale_roi_align_cuda(std::vector<Tensor> features, const Tensor& regions,
                                 int64_t bins_y, int64_t bins_x, std::vector<int64_t> levels,
                                 int64_t sampling_ratio, bool aligned, double canonical_scale,
                                 int64_t canonical_level) {
  STD_TORCH_CHECK(!features.empty() && features.size() == levels.size(),
                  "expected a level for each map");
  const AlignRule rule{bins_y, bins_x, sampling_ratio, aligned};
  return align(features, regions, make_pyramid(levels, canonical_scale, canonical_level), rule);
}

std::vector<Tensor> multiscale_roi_align_backward_cuda(
    const Tensor& grad, const Tensor& regions, int64_t batch, std::vector<int64_t> sizes,
    std::vector<int64_t> levels, int64_t sampling_ratio, bool aligned, double canonical_scale,
    int64_t canonical_level, bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  STD_TORCH_CHECK(grad.size(0) == regions.size(0), "expected as many gradients as regions");
  STD_TORCH_CHECK(!levels.empty() && sizes.size() == 2 * levels.size(),
                  "expected height and width of each level");
  const DeviceGuard guard(grad.get_device_index());
  std::vector<Tensor> maps;
  for (size_t level = 0; level < levels.size(); ++level) {
    maps.push_back(empty_map(grad, batch, grad.size(1), sizes[2 * level], sizes[2 * level + 1],
                             real_type(grad.scalar_type()), channels_last));
  }
  const AlignRule rule{grad.size(2), grad.size(3), sampling_ratio, aligned};
  align_gradient(grad, regions, maps, make_pyramid(levels, canonical_scale, canonical_level), rule,
                 channels_last);
  for (Tensor& map : maps) map = as_type(map, grad.scalar_type());
  return maps;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&cvlib::roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&cvlib::roi_align_backward_cuda));
  m.impl("multiscale_roi_align", TORCH_BOX(&cvlib::multiscale_roi_align_cuda));
  m.impl("multiscale_roi_align_backward", TORCH_BOX(&cvlib::multiscale_roi_align_backward_cuda));
}
