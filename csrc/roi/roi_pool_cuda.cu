// roi_pool on CUDA.
//
// Forward: one thread per bin and channel reads each pixel of the bin. The backward gathers like
// roi_align: a block owns a tile of pixels of one image and some channels, lists the regions that
// touch the tile in order, and each thread adds the gradients of the bins whose largest value is
// its pixel. No atomics; additions are in the order of the regions.
#include <tuple>

#include "../checks.h"
#include "../cuda_launch.cuh"
#include "region.h"
#include "tensors.h"

namespace cvlib {
namespace {

constexpr int kTileHeight = 8;
constexpr int kTileWidth = kThreads / kTileHeight;
constexpr int kChannelsPerThread = 8;
constexpr int kBinsAtATime = 64;  // bins of an axis with their pixels in shared memory

struct PoolSizes {
  int64_t images, channels, height, width, bins_y, bins_x, pixel_stride, channel_stride;
};

template <class T>
__global__ void forward_kernel(const T* __restrict__ maps, const T* __restrict__ regions,
                               int64_t count, PoolSizes sizes, T scale, T* __restrict__ out,
                               int32_t* __restrict__ argmax) {
  const int64_t bins = sizes.bins_y * sizes.bins_x, total = count * sizes.channels * bins;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += step) {
    const int64_t bin = i % bins, channel = i / bins % sizes.channels;
    const T* region = regions + 5 * (i / bins / sizes.channels);
    T best = T(0);
    int64_t place = -1;
    if (is_region(region, sizes.images, scale)) {
      const RoiRange ys = bin_pixels(pool_axis(region[2], region[4], scale, sizes.bins_y),
                                     bin / sizes.bins_x, sizes.height);
      const RoiRange xs = bin_pixels(pool_axis(region[1], region[3], scale, sizes.bins_x),
                                     bin % sizes.bins_x, sizes.width);
      const int64_t image = static_cast<int64_t>(region[0]);
      const T* values = maps + image * sizes.channels * sizes.height * sizes.width +
                        channel * sizes.channel_stride;
      for (int64_t y = ys.begin; y < ys.end; ++y) {
        for (int64_t x = xs.begin; x < xs.end; ++x) {
          const int64_t pixel = y * sizes.width + x;
          const T value = values[pixel * sizes.pixel_stride];
          if (place < 0 || value > best || is_nan(value)) {
            best = value;
            place = pixel;
          }
        }
      }
    }
    out[i] = best;
    if (argmax != nullptr) argmax[i] = static_cast<int32_t>(place);
  }
}

template <class T>
__device__ bool touches(const T* region, const PoolSizes& sizes, T scale, int64_t image,
                        int64_t top, int64_t left) {
  if (!is_region(region, sizes.images, scale)) return false;
  if (static_cast<int64_t>(region[0]) != image) return false;
  const PoolAxis<T> y_axis = pool_axis(region[2], region[4], scale, sizes.bins_y);
  const PoolAxis<T> x_axis = pool_axis(region[1], region[3], scale, sizes.bins_x);
  return bin_pixels(y_axis, 0, sizes.height).begin < top + kTileHeight &&
         bin_pixels(y_axis, sizes.bins_y - 1, sizes.height).end > top &&
         bin_pixels(x_axis, 0, sizes.width).begin < left + kTileWidth &&
         bin_pixels(x_axis, sizes.bins_x - 1, sizes.width).end > left;
}

template <class T>
__global__ void backward_kernel(const T* __restrict__ grad, const int32_t* __restrict__ argmax,
                                const T* __restrict__ regions, int64_t count, PoolSizes sizes,
                                T scale, T* __restrict__ out) {
  __shared__ int64_t members[kThreads];
  __shared__ int warp_counts[kThreads / kWarp];
  __shared__ RoiRange rows[kBinsAtATime], columns[kBinsAtATime];
  const int64_t tile_rows = (sizes.height + kTileHeight - 1) / kTileHeight;
  const int64_t tile_columns = (sizes.width + kTileWidth - 1) / kTileWidth;
  const int64_t image = blockIdx.x / (tile_rows * tile_columns);
  const int64_t top = blockIdx.x / tile_columns % tile_rows * kTileHeight;
  const int64_t left = blockIdx.x % tile_columns * kTileWidth;
  const int64_t y = top + threadIdx.x / kTileWidth, x = left + threadIdx.x % kTileWidth;
  const bool is_pixel = y < sizes.height && x < sizes.width;
  const int32_t pixel = static_cast<int32_t>(y * sizes.width + x);
  const int64_t bins = sizes.bins_y * sizes.bins_x;
  const int64_t groups = (sizes.channels + kChannelsPerThread - 1) / kChannelsPerThread;
  for (int64_t group = blockIdx.y; group < groups; group += gridDim.y) {
    const int64_t channel = group * kChannelsPerThread;
    T sums[kChannelsPerThread];
#pragma unroll
    for (int c = 0; c < kChannelsPerThread; ++c) sums[c] = T(0);
    for (int64_t base = 0; base < count; base += kThreads) {
      const int64_t candidate = base + threadIdx.x;
      const bool hit =
          candidate < count && touches(regions + 5 * candidate, sizes, scale, image, top, left);
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
        const PoolAxis<T> y_axis = pool_axis(region[2], region[4], scale, sizes.bins_y);
        const PoolAxis<T> x_axis = pool_axis(region[1], region[3], scale, sizes.bins_x);
        for (int64_t first_y = 0; first_y < sizes.bins_y; first_y += kBinsAtATime) {
          const int64_t count_y = smaller<int64_t>(kBinsAtATime, sizes.bins_y - first_y);
          for (int64_t first_x = 0; first_x < sizes.bins_x; first_x += kBinsAtATime) {
            const int64_t count_x = smaller<int64_t>(kBinsAtATime, sizes.bins_x - first_x);
            for (int64_t i = threadIdx.x; i < count_y; i += kThreads) {
              rows[i] = bin_pixels(y_axis, first_y + i, sizes.height);
            }
            for (int64_t i = threadIdx.x; i < count_x; i += kThreads) {
              columns[i] = bin_pixels(x_axis, first_x + i, sizes.width);
            }
            __syncthreads();
            for (int64_t i = 0; i < count_y && is_pixel; ++i) {
              if (y < rows[i].begin || y >= rows[i].end) continue;
              for (int64_t j = 0; j < count_x; ++j) {
                if (x < columns[j].begin || x >= columns[j].end) continue;
                const int64_t bin = (k * sizes.channels + channel) * bins +
                                    (first_y + i) * sizes.bins_x + first_x + j;
#pragma unroll
                for (int c = 0; c < kChannelsPerThread; ++c) {
                  if (channel + c < sizes.channels && argmax[bin + c * bins] == pixel) {
                    sums[c] += grad[bin + c * bins];
                  }
                }
              }
            }
            __syncthreads();
          }
        }
      }
    }
    if (is_pixel) {
      T* target = out + image * sizes.channels * sizes.height * sizes.width;
#pragma unroll
      for (int c = 0; c < kChannelsPerThread; ++c) {
        if (channel + c < sizes.channels) {
          target[(channel + c) * sizes.channel_stride + pixel * sizes.pixel_stride] = sums[c];
        }
      }
    }
  }
}

PoolSizes sizes_of(const Tensor& maps, int64_t bins_y, int64_t bins_x) {
  const int64_t c = maps.size(1), h = maps.size(2), w = maps.size(3);
  const bool channels_last = is_dense_channels_last(maps);
  return {maps.size(0),
          c,
          h,
          w,
          bins_y,
          bins_x,
          channels_last ? c : int64_t{1},
          channels_last ? int64_t{1} : h * w};
}

std::tuple<Tensor, Tensor> roi_pool_cuda(const Tensor& input, const Tensor& regions, int64_t bins_y,
                                         int64_t bins_x, double spatial_scale, bool with_argmax) {
  check_roi_arguments(input, regions, bins_y, bins_x);
  check_plane(input.size(2), input.size(3));
  const DeviceGuard guard(input.get_device_index());
  const ScalarType type = real_type(input.scalar_type());
  const Tensor maps = as_dense(input), rows = as_contiguous(as_type(regions, type));
  const int64_t count = rows.size(0), channels = maps.size(1);
  Tensor out = empty(maps, {count, channels, bins_y, bins_x}, type);
  Tensor argmax = with_argmax ? empty(maps, {count, channels, bins_y, bins_x}, ScalarType::Int)
                              : empty(maps, {0}, ScalarType::Int);
  const int64_t total = count * channels * bins_y * bins_x;
  if (total > 0) {
    const unsigned blocks = blocks_for(smaller<int64_t>(total, int64_t{1} << 30));
    dispatch_floating(type, [&](auto zero) {
      using T = decltype(zero);
      forward_kernel<T><<<blocks, kThreads, 0, current_stream(maps)>>>(
          data<T>(maps), data<T>(rows), count, sizes_of(maps, bins_y, bins_x),
          static_cast<T>(spatial_scale), mutable_data<T>(out),
          with_argmax ? mutable_data<int32_t>(argmax) : nullptr);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {as_type(out, input.scalar_type()), argmax};
}

Tensor roi_pool_backward_cuda(const Tensor& grad, const Tensor& argmax, const Tensor& regions,
                              int64_t batch, int64_t height, int64_t width, double spatial_scale,
                              bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  check_plane(height, width);
  check_argmax(grad, argmax, regions);
  const DeviceGuard guard(grad.get_device_index());
  const ScalarType type = real_type(grad.scalar_type());
  const Tensor pooled = as_contiguous(as_type(grad, type)),
               rows = as_contiguous(as_type(regions, type));
  const Tensor places = as_contiguous(argmax);
  const Tensor out = empty_map(grad, batch, grad.size(1), height, width, type, channels_last);
  const int64_t tiles =
      static_cast<int64_t>(blocks_for(height, kTileHeight)) * blocks_for(width, kTileWidth) * batch;
  const int64_t groups = (grad.size(1) + kChannelsPerThread - 1) / kChannelsPerThread;
  if (tiles > 0 && groups > 0) {
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(smaller(groups, kMaxGrid)));
    dispatch_floating(type, [&](auto zero) {
      using T = decltype(zero);
      backward_kernel<T><<<grid, kThreads, 0, current_stream(grad)>>>(
          data<T>(pooled), data<int32_t>(places), data<T>(rows), rows.size(0),
          sizes_of(out, grad.size(2), grad.size(3)), static_cast<T>(spatial_scale),
          mutable_data<T>(out));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return as_type(out, grad.scalar_type());
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("roi_pool", TORCH_BOX(&cvlib::roi_pool_cuda));
  m.impl("roi_pool_backward", TORCH_BOX(&cvlib::roi_pool_backward_cuda));
}
