// Bilinear interpolation of images and its gradient on CUDA.
//
// Both kernels work on rows of C interleaved values (C = 1 for contiguous images). A thread owns
// one column of values and kRowsPerThread rows, so that the taps of the column are computed once;
// neighbouring threads write neighbouring values. The gradient is gathered: a thread sums the
// shares of its pixel in the outputs, in a fixed order, without atomics and without a zero-fill. If
// a pixel has many readers in a row, as with a large factor, a warp gathers for it instead, with
// its lanes along the row, and sums in a fixed tree.
#include "../cuda_launch.cuh"
#include "image_layout.h"

namespace cvlib {
namespace {

constexpr int kRowsPerThread = 4;
constexpr int64_t kWarpReaders = 16;  // from this many readers on, a warp gathers for a pixel
constexpr unsigned kMaxWarpBlocks = 1u << 20;

template <class Value, class T>
__global__ void resize_kernel(const Value* __restrict__ src, ImageLayout in, ImageLayout out,
                              ResizedAxis<T> rows, ResizedAxis<T> columns,
                              Value* __restrict__ dst) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= out.row_size()) return;
  const int64_t pixel = column / out.channels, channel = column - pixel * out.channels;
  const Tap<T> across = tap_at(columns, pixel);
  const int64_t left = across.low * out.channels + channel;
  const int64_t right = across.high * out.channels + channel;
  const int64_t count = out.planes * out.height;
  const int64_t per_block = static_cast<int64_t>(blockDim.y) * kRowsPerThread;
  for (int64_t row = blockIdx.y * per_block + threadIdx.y * kRowsPerThread; row < count;
       row += gridDim.y * per_block) {
    int64_t plane = row / out.height, y = row - plane * out.height;
    const Value* from = src + in.plane_offset(plane);
    Value* to = dst + out.plane_offset(plane) + column;
    for (int r = 0; r < kRowsPerThread && row + r < count; ++r) {
      const Tap<T> down = tap_at(rows, y);
      const Value* top = from + down.low * in.row_stride;
      const Value* bottom = from + down.high * in.row_stride;
      const T keep = T(1) - across.weight;
      const T above = keep * static_cast<T>(top[left]) + across.weight * static_cast<T>(top[right]);
      const T below =
          keep * static_cast<T>(bottom[left]) + across.weight * static_cast<T>(bottom[right]);
      to[y * out.row_stride] =
          static_cast<Value>((T(1) - down.weight) * above + down.weight * below);
      if (++y == out.height && row + r + 1 < count) {
        y = 0, ++plane;
        from = src + in.plane_offset(plane);
        to = dst + out.plane_offset(plane) + column;
      }
    }
  }
}

// Share of a pixel in an output: it is `high` of outputs before `middle`, `low` of the others.
template <class T>
__device__ __forceinline__ T share_at(const ResizedAxis<T>& axis, int64_t output, int64_t middle) {
  const Tap<T> tap = tap_at(axis, output);
  return output < middle ? share_of_high(tap) : share_of_low(tap);
}

// Shares of 0 are skipped, so that an infinite gradient does not become NaN elsewhere.
template <class T>
__device__ __forceinline__ T add_share(T sum, T share, T value) {
  return share != T(0) ? sum + share * value : sum;
}

// Outputs of a row that read a pixel: as `high` from begin to middle, as `low` from middle to end.
struct Readers {
  int64_t begin, middle, end;
};

template <class T>
__device__ __forceinline__ Readers readers_of(const ResizedAxis<T>& axis, int64_t pixel) {
  return {first_reader(axis, pixel - 1), first_reader(axis, pixel), first_reader(axis, pixel + 1)};
}

template <class Value, class T>
__global__ void gather_kernel(const Value* __restrict__ grad, ImageLayout in, ImageLayout out,
                              ResizedAxis<T> rows, ResizedAxis<T> columns,
                              Value* __restrict__ dst) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= in.row_size()) return;
  const int64_t pixel = column / in.channels, channel = column - pixel * in.channels;
  const Readers across = readers_of(columns, pixel);
  const int64_t count = in.planes * in.height;
  const int64_t per_block = static_cast<int64_t>(blockDim.y) * kRowsPerThread;
  for (int64_t row = blockIdx.y * per_block + threadIdx.y * kRowsPerThread; row < count;
       row += gridDim.y * per_block) {
    for (int r = 0; r < kRowsPerThread && row + r < count; ++r) {
      const int64_t plane = (row + r) / in.height, y = row + r - plane * in.height;
      const Readers down = readers_of(rows, y);
      const Value* from = grad + out.plane_offset(plane) + channel;
      T sum = T(0);
      for (int64_t o = down.begin; o < down.end; ++o) {
        const Value* values = from + o * out.row_stride;
        T row_sum = T(0);
        for (int64_t j = across.begin; j < across.end; ++j) {
          const T value = static_cast<T>(values[j * out.channels]);
          row_sum = add_share(row_sum, share_at(columns, j, across.middle), value);
        }
        sum = add_share(sum, share_at(rows, o, down.middle), row_sum);
      }
      dst[in.row_offset(plane, y) + column] = static_cast<Value>(sum);
    }
  }
}

// One warp per pixel, for contiguous images.
template <class Value, class T>
__global__ void gather_by_warps_kernel(const Value* __restrict__ grad, ImageLayout in,
                                       ImageLayout out, ResizedAxis<T> rows, ResizedAxis<T> columns,
                                       Value* __restrict__ dst) {
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int64_t count = in.planes * in.height * in.width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       i < count; i += warps) {
    const int64_t row = i / in.width, x = i - row * in.width;
    const int64_t plane = row / in.height, y = row - plane * in.height;
    const Readers across = readers_of(columns, x), down = readers_of(rows, y);
    const Value* from = grad + out.plane_offset(plane);
    T sum = T(0);
    for (int64_t j = across.begin + lane; j < across.end; j += kWarp) {
      T column_sum = T(0);
      for (int64_t o = down.begin; o < down.end; ++o) {
        const T value = static_cast<T>(from[o * out.row_stride + j]);
        column_sum = add_share(column_sum, share_at(rows, o, down.middle), value);
      }
      sum = add_share(sum, share_at(columns, j, across.middle), column_sum);
    }
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(kFullWarp, sum, step);
    if (lane == 0) dst[in.row_offset(plane, y) + x] = static_cast<Value>(sum);
  }
}

MatrixLaunch launch_over(const ImageLayout& layout) {
  return launch_over_matrix(layout.planes * layout.height, layout.row_size(), kRowsPerThread);
}

Tensor upsample_bilinear_cuda(const Tensor& input, int64_t height, int64_t width, double scale_y,
                              double scale_x, bool align_corners) {
  check_resize(input, height, width);
  const DeviceGuard guard(input.get_device_index());
  const bool channels_last = is_channels_last(input);
  Tensor out = empty_images(input, height, width, channels_last);
  if (out.numel() == 0) return out;
  if (keeps_size(input, height, width)) return torch::stable::copy_(out, input);
  const Tensor source = with_dense_rows(input, channels_last);
  const ImageLayout from = layout_of(source, channels_last), to = layout_of(out, channels_last);
  const MatrixLaunch launch = launch_over(to);
  dispatch_stored(input.scalar_type(), [&](auto zero) {
    using Value = decltype(zero);
    using T = ComputedIn<Value>;
    resize_kernel<Value, T><<<launch.grid, launch.block, 0, current_stream(input)>>>(
        data<Value>(source), from, to,
        resized_axis<T>(input.size(2), height, scale_y, align_corners),
        resized_axis<T>(input.size(3), width, scale_x, align_corners), mutable_data<Value>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

Tensor upsample_bilinear_backward_cuda(const Tensor& grad, int64_t height, int64_t width,
                                       double scale_y, double scale_x, bool align_corners) {
  check_resize(grad, height, width);
  const DeviceGuard guard(grad.get_device_index());
  const bool channels_last = is_channels_last(grad);
  Tensor out = empty_images(grad, height, width, channels_last);
  if (out.numel() == 0) return out;
  if (keeps_size(grad, height, width)) return torch::stable::copy_(out, grad);
  const Tensor source = with_dense_rows(grad, channels_last);
  const ImageLayout from = layout_of(source, channels_last), to = layout_of(out, channels_last);
  dispatch_stored(grad.scalar_type(), [&](auto zero) {
    using Value = decltype(zero);
    using T = ComputedIn<Value>;
    const auto rows = resized_axis<T>(height, grad.size(2), scale_y, align_corners);
    const auto columns = resized_axis<T>(width, grad.size(3), scale_x, align_corners);
    if (to.channels == 1 && 2 * columns.out >= kWarpReaders * columns.in) {
      const int64_t blocks = blocks_for(out.numel(), kThreads / kWarp);
      const auto grid = static_cast<unsigned>(blocks < kMaxWarpBlocks ? blocks : kMaxWarpBlocks);
      gather_by_warps_kernel<Value, T><<<grid, kThreads, 0, current_stream(grad)>>>(
          data<Value>(source), to, from, rows, columns, mutable_data<Value>(out));
    } else {
      const MatrixLaunch launch = launch_over(to);
      gather_kernel<Value, T><<<launch.grid, launch.block, 0, current_stream(grad)>>>(
          data<Value>(source), to, from, rows, columns, mutable_data<Value>(out));
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("upsample_bilinear", TORCH_BOX(&cvlib::upsample_bilinear_cuda));
  m.impl("upsample_bilinear_plain", TORCH_BOX(&cvlib::upsample_bilinear_cuda));
  m.impl("upsample_bilinear_backward", TORCH_BOX(&cvlib::upsample_bilinear_backward_cuda));
  m.impl("upsample_bilinear_backward_plain", TORCH_BOX(&cvlib::upsample_bilinear_backward_cuda));
}
