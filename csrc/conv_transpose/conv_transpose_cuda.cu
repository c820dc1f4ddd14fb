// Transposed convolution with large strides on CUDA. Gradients have no kernel here: they use the
// reference, which is PyTorch's (cuDNN's).
//
// The kernel gathers. A thread owns a phase (ry, rx) of one output channel in kPositions
// neighbouring segments of a row: the tap of a term is read once for all of them, and neighbouring
// threads read neighbouring taps; the input value of a term is shared by the whole block and comes
// from the cache. Each output is written once, with a fixed order of summation, so that results are
// reproducible. Cost: outputs * channels * overlap^2 multiplications.
#include <optional>

#include "../cuda_launch.cuh"
#include "checks.h"

namespace cvlib {
namespace {

constexpr int kPositions = 8;

// One term for kPositions segments from q on: the input at column q + p - tj.
template <class T>
__device__ __forceinline__ void add_term(const T* __restrict__ row, int64_t first, int64_t width,
                                         T tap, T (&sums)[kPositions]) {
#pragma unroll
  for (int p = 0; p < kPositions; ++p) {
    const int64_t j = first + p;
    if (j >= 0 && j < width) sums[p] += row[j] * tap;
  }
}

template <class T>
__global__ void forward_kernel(const T* __restrict__ input, const T* __restrict__ weight,
                               const T* __restrict__ bias, ConvShape s, int64_t tiles,
                               T* __restrict__ output) {
  const int64_t phase = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (phase >= s.y.stride * s.x.stride) return;
  const int64_t ry = phase / s.x.stride, rx = phase % s.x.stride;
  const int64_t channels = s.groups * s.outputs, rows = s.y.segments();
  // A job is a tile of segments (image, channel, i, tile), shared by the whole block.
  for (int64_t job = blockIdx.y; job < s.batch * channels * rows * tiles; job += gridDim.y) {
    const int64_t q = job % tiles * kPositions, i = job / tiles % rows;
    const int64_t plane = job / (tiles * rows), channel = plane % channels;
    const int64_t group = channel / s.outputs;
    const int64_t y = i * s.y.stride + ry - s.y.padding;
    if (y < 0 || y >= s.y.output) continue;
    T sums[kPositions];
#pragma unroll
    for (int p = 0; p < kPositions; ++p) sums[p] = bias == nullptr ? T(0) : bias[channel];
    const T* image = input + (plane / channels * s.groups + group) * s.inputs * s.input_plane();
    const T* taps =
        weight + (group * s.inputs * s.outputs + channel % s.outputs) * s.kernel_plane();
    for (int64_t ky = ry, row = i; ky < s.y.kernel; ky += s.y.stride, --row) {
      if (row < 0 || row >= s.y.input) continue;
      for (int64_t c = 0; c < s.inputs; ++c) {
        const T* from = image + c * s.input_plane() + row * s.x.input;
        const T* tap = taps + c * s.outputs * s.kernel_plane() + ky * s.x.kernel;
        for (int64_t kx = rx, first = q; kx < s.x.kernel; kx += s.x.stride, --first) {
          add_term(from, first, s.x.input, tap[kx], sums);
        }
      }
    }
    T* to = output + (plane * s.y.output + y) * s.x.output;
#pragma unroll
    for (int p = 0; p < kPositions; ++p) {
      const int64_t x = (q + p) * s.x.stride + rx - s.x.padding;
      if (x >= 0 && x < s.x.output) to[x] = sums[p];
    }
  }
}

Tensor conv_transpose2d_cuda(const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                             int64_t padding_h, int64_t padding_w, int64_t output_padding_h,
                             int64_t output_padding_w, int64_t groups) {
  check_conv_transpose(input, weight, bias, groups);
  const DeviceGuard guard(input.get_device_index());
  const ConvShape s = make_conv_shape(
      input, weight, groups,
      make_axis(input.size(2), weight.size(2), stride_h, padding_h, output_padding_h),
      make_axis(input.size(3), weight.size(3), stride_w, padding_w, output_padding_w));
  Tensor out =
      empty(input, {s.batch, s.groups * s.outputs, s.y.output, s.x.output}, input.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor values = as_contiguous(input), taps = as_contiguous(weight);
  const Tensor biases = bias ? as_contiguous(*bias) : taps;
  const int64_t tiles = blocks_for(s.x.segments(), kPositions);
  const int64_t jobs = s.batch * s.groups * s.outputs * s.y.segments() * tiles;
  const dim3 grid(blocks_for(s.y.stride * s.x.stride),
                  static_cast<unsigned>(jobs < kMaxGrid ? jobs : kMaxGrid));
  dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    forward_kernel<T><<<grid, kThreads, 0, current_stream(values)>>>(
        data<T>(values), data<T>(taps), bias ? data<T>(biases) : nullptr, s, tiles,
        mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("conv_transpose2d", TORCH_BOX(&cvlib::conv_transpose2d_cuda));
}
