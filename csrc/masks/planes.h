// A stack of masks as kernels read it: each mask is contiguous, with any stride between masks.
#pragma once

#include "../torch_compat.h"

namespace cvlib {

struct Planes {
  Tensor tensor;  // owns the memory
  int64_t count, height, width, stride;

  int64_t size() const { return height * width; }
};

// Copies only if the masks themselves are not contiguous; expanded or selected masks are read in
// place.
inline Planes as_planes(const Tensor& masks) {
  const int64_t height = masks.size(1), width = masks.size(2);
  const bool is_plane =
      (width <= 1 || masks.stride(2) == 1) && (height <= 1 || masks.stride(1) == width);
  const Tensor kept = is_plane ? masks : torch::stable::contiguous(masks);
  return {kept, kept.size(0), height, width, kept.size(0) > 1 ? kept.stride(0) : 0};
}

// Calls function(U{}, bits): elements of a mask are read as unsigned integers U and are set if any
// of `bits` is, so that -0.0 is zero.
template <class Function>
void dispatch_bits(ScalarType type, Function&& function) {
  switch (type) {
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char:
      return function(uint8_t{}, uint8_t{0xff});
    case ScalarType::Short:
    case ScalarType::UInt16:
      return function(uint16_t{}, uint16_t{0xffff});
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return function(uint16_t{}, uint16_t{0x7fff});
    case ScalarType::Int:
    case ScalarType::UInt32:
      return function(uint32_t{}, uint32_t{0xffffffff});
    case ScalarType::Float:
      return function(uint32_t{}, uint32_t{0x7fffffff});
    case ScalarType::Long:
    case ScalarType::UInt64:
      return function(uint64_t{}, ~uint64_t{0});
    case ScalarType::Double:
      return function(uint64_t{}, ~uint64_t{0} >> 1);
    default:
      STD_TORCH_CHECK(false, "masks_to_boxes: no kernel for this dtype");
  }
}

}  // namespace cvlib
