// Pastes small masks into their boxes on a canvas, on CUDA.
//
// The result is cleared first. Then a block takes a tile of one canvas, skips it if the box does
// not reach it, and otherwise locates its rows and columns once, in shared memory. The backward
// gathers: one warp per cell of a mask visits the pixels that read the cell and sums as a tree, so
// that results are reproducible.
#include "../cuda_launch.cuh"
#include "checks.h"
#include "paste.h"

namespace cvlib {
namespace {

constexpr int kTile = 32;                    // pixels along each side
constexpr int kTileRows = kThreads / kTile;  // rows of a tile written at a time
constexpr int kWarpsPerBlock = kThreads / kWarp;
constexpr int64_t kMaxBlocks = 1 << 20;

template <class T>
struct MasksView {
  const T* values;
  int64_t count, height, width;
};

template <class T>
__device__ T read_cell(const MasksView<T>& masks, int64_t n, int64_t y, int64_t x) {
  const bool is_inside = y >= 0 && y < masks.height && x >= 0 && x < masks.width;
  return is_inside ? masks.values[(n * masks.height + y) * masks.width + x] : T(0);
}

template <class T>
__device__ T sample(const MasksView<T>& masks, int64_t n, const PasteTap<T>& y,
                    const PasteTap<T>& x) {
  const T upper = interpolate(read_cell(masks, n, y.low, x.low),
                              read_cell(masks, n, y.low, x.low + 1), x.fraction);
  const T lower = interpolate(read_cell(masks, n, y.low + 1, x.low),
                              read_cell(masks, n, y.low + 1, x.low + 1), x.fraction);
  return interpolate(upper, lower, y.fraction);
}

__device__ bool contains(const PixelRange& range, int64_t value) {
  return value >= range.begin && value < range.end;
}

__device__ bool touches(const PixelRange& range, int64_t first) {
  return first < range.end && first + kTile > range.begin;
}

template <class T, class Make>
__global__ void paste_kernel(MasksView<T> masks, const double* __restrict__ boxes, Canvas canvas,
                             Make make, typename Make::Out* __restrict__ out) {
  __shared__ PasteTap<T> taps_x[kTile];
  __shared__ PasteTap<T> taps_y[kTile];
  const int64_t left = static_cast<int64_t>(blockIdx.x) * kTile, x = left + threadIdx.x;
  for (int64_t n = blockIdx.z; n < masks.count; n += gridDim.z) {
    const Box<double> box = read_box(boxes + 4 * n);
    if (!can_paste(box)) continue;
    const PixelRange columns = pixels_in(box.x1, box.x2, canvas.width);
    const PixelRange rows = pixels_in(box.y1, box.y2, canvas.height);
    if (!touches(columns, left)) continue;
    for (int64_t top = static_cast<int64_t>(blockIdx.y) * kTile; top < canvas.height;
         top += static_cast<int64_t>(gridDim.y) * kTile) {
      if (!touches(rows, top)) continue;  // for all threads of the block alike
      const int64_t own_row = top + threadIdx.x;
      __syncthreads();
      if (threadIdx.y == 0 && contains(columns, x)) {
        taps_x[threadIdx.x] = locate<T>(x, box.x1, box.x2, masks.width);
      }
      if (threadIdx.y == 1 && contains(rows, own_row)) {
        taps_y[threadIdx.x] = locate<T>(own_row, box.y1, box.y2, masks.height);
      }
      __syncthreads();
      if (!contains(columns, x)) continue;
      for (int r = threadIdx.y; r < kTile; r += kTileRows) {
        if (!contains(rows, top + r)) continue;
        const T value = sample(masks, n, taps_y[r], taps_x[threadIdx.x]);
        out[(n * canvas.height + top + r) * canvas.width + x] = make(value);
      }
    }
  }
}

// The pixels that may read a cell: slightly more than those less than one cell away.
__device__ PixelRange readers(int64_t cell, double low, double high, int64_t cells,
                              PixelRange pixels) {
  const double step = (high - low) / static_cast<double>(cells);
  const double center = low + (static_cast<double>(cell) + 0.5) * step;
  // Far outside of the canvas, doubles are coarser than pixels.
  const double margin = 1 + 1e-14 * (std::fabs(low) + std::fabs(high));
  const int64_t begin = clamp_to_size(std::floor(center - step - margin), pixels.end);
  const int64_t end = clamp_to_size(std::ceil(center + step + margin), pixels.end);
  return {begin > pixels.begin ? begin : pixels.begin, end};
}

template <class T>
__device__ T weight_of(int64_t pixel, int64_t cell, double low, double high, int64_t cells) {
  const PasteTap<T> tap = locate<T>(pixel, low, high, cells);
  if (tap.low == cell) return T(1) - tap.fraction;
  return tap.low + 1 == cell ? tap.fraction : T(0);
}

template <class T>
__global__ void paste_backward_kernel(const T* __restrict__ grad, const double* __restrict__ boxes,
                                      int64_t count, int64_t mask_height, int64_t mask_width,
                                      Canvas canvas, T* __restrict__ grad_masks) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t index = first; index < count * mask_height * mask_width; index += step) {
    const int64_t column = index % mask_width, row = index / mask_width % mask_height;
    const int64_t n = index / mask_width / mask_height;
    const Box<double> box = read_box(boxes + 4 * n);
    T sum = 0;
    if (can_paste(box)) {
      const PixelRange xs =
          readers(column, box.x1, box.x2, mask_width, pixels_in(box.x1, box.x2, canvas.width));
      const PixelRange ys =
          readers(row, box.y1, box.y2, mask_height, pixels_in(box.y1, box.y2, canvas.height));
      for (int64_t y = ys.begin; y < ys.end; ++y) {
        const T weight = weight_of<T>(y, row, box.y1, box.y2, mask_height);
        if (weight == T(0)) continue;
        const T* line = grad + (n * canvas.height + y) * canvas.width;
        for (int64_t x = xs.begin + lane; x < xs.end; x += kWarp) {
          sum += weight * weight_of<T>(x, column, box.x1, box.x2, mask_width) * line[x];
        }
      }
    }
    for (int width = kWarp / 2; width > 0; width /= 2) {
      sum += __shfl_down_sync(kFullWarp, sum, width);
    }
    if (lane == 0) grad_masks[index] = sum;
  }
}

unsigned at_most(int64_t blocks, int64_t limit) {
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

Tensor boxes_as_double(const Tensor& boxes) {
  return as_contiguous(torch::stable::to(boxes, ScalarType::Double));
}

template <class T, class Make>
void launch_paste(const Tensor& masks, const Tensor& boxes, Canvas canvas, const Make& make,
                  Tensor& out) {
  const MasksView<T> view{data<T>(masks), masks.size(0), masks.size(1), masks.size(2)};
  if (out.numel() == 0) return;
  const Tensor corners = boxes_as_double(boxes);
  const dim3 block(kTile, kTileRows);
  const dim3 grid(blocks_for(canvas.width, kTile),
                  at_most(blocks_for(canvas.height, kTile), kMaxGrid),
                  at_most(view.count, kMaxGrid));
  paste_kernel<T, Make><<<grid, block, 0, current_stream(masks)>>>(
      view, data<double>(corners), canvas, make, mutable_data<typename Make::Out>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor paste_masks_cuda(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                        double threshold) {
  check_paste(masks, boxes, height, width);
  const DeviceGuard guard(masks.get_device_index());
  const Tensor real = as_real(masks);
  Tensor out = zeros(real, {real.size(0), height, width}, ScalarType::Bool);
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const PasteThreshold<T> decide{round_up<T>(threshold)};
    launch_paste<T>(real, boxes, {height, width}, decide, out);
  });
  return out;
}

Tensor paste_mask_values_cuda(const Tensor& masks, const Tensor& boxes, int64_t height,
                              int64_t width) {
  check_paste(masks, boxes, height, width);
  const DeviceGuard guard(masks.get_device_index());
  const Tensor real = as_real(masks);
  Tensor out = zeros(real, {real.size(0), height, width}, real.scalar_type());
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_paste<T>(real, boxes, {height, width}, PasteValue<T>{}, out);
  });
  return out;
}

Tensor paste_mask_values_backward_cuda(const Tensor& grad, const Tensor& boxes, int64_t mask_height,
                                       int64_t mask_width) {
  check_paste_gradient(grad, boxes, mask_height, mask_width);
  const DeviceGuard guard(grad.get_device_index());
  const Tensor real = as_real(grad);
  const int64_t n = real.size(0), cells = n * mask_height * mask_width;
  Tensor out = empty(real, {n, mask_height, mask_width}, real.scalar_type());
  if (cells == 0) return out;
  const Tensor corners = boxes_as_double(boxes);
  const Canvas canvas{real.size(1), real.size(2)};
  const unsigned blocks = at_most((cells + kWarpsPerBlock - 1) / kWarpsPerBlock, kMaxBlocks);
  dispatch_floating(real.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    paste_backward_kernel<T><<<blocks, kThreads, 0, current_stream(real)>>>(
        data<T>(real), data<double>(corners), n, mask_height, mask_width, canvas,
        mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("paste_masks", TORCH_BOX(&cvlib::paste_masks_cuda));
  m.impl("paste_mask_values", TORCH_BOX(&cvlib::paste_mask_values_cuda));
  m.impl("paste_mask_values_backward", TORCH_BOX(&cvlib::paste_mask_values_backward_cuda));
}
