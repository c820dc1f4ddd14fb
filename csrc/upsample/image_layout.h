// Memory layouts of images and results. Shared by the CPU and CUDA adapters.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "../interp_math.h"
#include "../torch_compat.h"

namespace cvlib {

using torch::headeronly::MemoryFormat;

// The type in which values of a dtype are computed.
template <class Value>
using ComputedIn = std::conditional_t<std::is_same_v<Value, double>, double, float>;

// Calls function(Value{}) with the type that a tensor is stored in.
template <class Function>
void dispatch_stored(ScalarType type, Function&& function) {
  switch (type) {
    case ScalarType::Half:
      return function(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return function(torch::headeronly::BFloat16{});
    default:
      return dispatch_floating(type, function);
  }
}

// Whether results of these images are channels-last: strides increase in the order C, W, H, N, also
// for sizes of 1. This is PyTorch's rule, also for images that are not dense; `_is_channels_last`
// in cvlib/ops/upsample.py implements it, too.
inline bool is_channels_last(const Tensor& images) {
  if (images.stride(1) == 0) return false;
  int64_t least = 0;
  for (const int64_t d : {1, 3, 2, 0}) {
    const int64_t size = images.size(d), stride = images.stride(d);
    if (size == 0 || stride < least) return false;
    if (d == 0 && least == images.stride(1)) return false;
    least = size > 1 ? stride * size : stride;
  }
  return true;
}

// Images (N, C, H, W) as `planes` planes whose rows have `channels` interleaved values per pixel: N
// x C planes of 1 value, or N planes of C values if channels-last. Rows are dense; planes and rows
// may have any stride.
struct ImageLayout {
  int64_t planes, height, width, channels;
  int64_t group;  // planes per image
  int64_t image_stride, plane_stride, row_stride;

  CVLIB_HOST_DEVICE int64_t row_size() const { return width * channels; }

  CVLIB_HOST_DEVICE int64_t plane_offset(int64_t plane) const {
    const int64_t image = plane / group;
    return image * image_stride + (plane - image * group) * plane_stride;
  }

  CVLIB_HOST_DEVICE int64_t row_offset(int64_t plane, int64_t y) const {
    return plane_offset(plane) + y * row_stride;
  }
};

inline ImageLayout layout_of(const Tensor& images, bool channels_last) {
  const int64_t n = images.size(0), c = images.size(1);
  const int64_t planes = channels_last ? n : n * c;
  return {planes,
          images.size(2),
          images.size(3),
          channels_last ? c : 1,
          channels_last ? 1 : c,
          images.stride(0),
          channels_last ? 0 : images.stride(1),
          images.stride(2)};
}

// Returns the images if their rows are dense, otherwise a copy.
inline Tensor with_dense_rows(const Tensor& images, bool channels_last) {
  const int64_t channels = channels_last ? images.size(1) : 1;
  const bool is_dense = (images.size(3) == 1 || images.stride(3) == channels) &&
                        (channels == 1 || images.stride(1) == 1);
  if (is_dense) return images;
  return torch::stable::contiguous(
      images, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline Tensor empty_images(const Tensor& like, int64_t height, int64_t width, bool channels_last) {
  const int64_t n = like.size(0), c = like.size(1);
  return channels_last ? empty_channels_last(like, n, c, height, width, like.scalar_type())
                       : empty(like, {n, c, height, width}, like.scalar_type());
}

inline void check_resize(const Tensor& images, int64_t height, int64_t width) {
  STD_TORCH_CHECK(images.dim() == 4, "expected images of shape (N, C, H, W)");
  STD_TORCH_CHECK(images.size(2) > 0 && images.size(3) > 0 && height > 0 && width > 0,
                  "expected heights and widths of at least 1");
}

inline bool keeps_size(const Tensor& images, int64_t height, int64_t width) {
  return images.size(2) == height && images.size(3) == width;
}

}  // namespace cvlib
