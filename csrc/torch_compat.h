// The parts of torch that the kernels use, on the stable ABI: one binary serves torch 2.11 and
// later.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>

#include "large_memory.h"

namespace cvlib {

using Tensor = torch::stable::Tensor;
using torch::headeronly::ScalarType;

// Calls function(T{}) with T float or double. Half types are converted before: see as_real.
template <class Function>
void dispatch_floating(ScalarType type, Function&& function) {
  switch (type) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    default:
      STD_TORCH_CHECK(false, "cvlib kernels compute in float32 or float64");
  }
}

inline bool is_half(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Half || tensor.scalar_type() == ScalarType::BFloat16;
}

// A contiguous tensor; float16 and bfloat16 become float32.
inline Tensor as_real(const Tensor& tensor) {
  const Tensor real = is_half(tensor) ? torch::stable::to(tensor, ScalarType::Float) : tensor;
  return real.is_contiguous() ? real : torch::stable::contiguous(real);
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline int64_t size_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    default:
      return 1;
  }
}

// Allocates an uninitialised result with these sizes and (dense) strides in kept memory. False for
// small results and other devices, which take torch's allocator.
inline bool empty_in_large_memory(const Tensor& like, Sizes sizes, Sizes strides, ScalarType type,
                                  Tensor& result) {
#if defined(__linux__)
  int64_t bytes = size_of(type);
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return false;
  }
  if (bytes < kLargeBytes || !like.is_cpu()) return false;
  const LargeMemory::Block block = LargeMemory::instance().take(bytes);
  if (block.memory == nullptr) return false;
  result = torch::stable::from_blob(block.memory, sizes, strides, like.device(), type,
                                    [block](void*) { LargeMemory::instance().give_back(block); });
  return true;
#else
  return false;
#endif
}

inline Tensor empty(const Tensor& like, Sizes sizes, ScalarType type) {
  constexpr size_t kMaxDimensions = 8;
  int64_t strides[kMaxDimensions], stride = 1;
  if (sizes.size() <= kMaxDimensions) {
    for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d]) strides[d] = stride;
    Tensor large = like;
    if (empty_in_large_memory(like, sizes, Sizes(strides, sizes.size()), type, large)) return large;
  }
  return torch::stable::new_empty(like, sizes, type);
}

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return empty(like, Sizes(sizes.begin(), sizes.size()), type);
}

// Images in channels-last memory format.
inline Tensor empty_channels_last(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w,
                                  ScalarType type) {
  const int64_t sizes[] = {n, c, h, w}, strides[] = {c * h * w, 1, c * w, c};
  Tensor large = like;
  if (empty_in_large_memory(like, {sizes, 4}, {strides, 4}, type, large)) return large;
  return torch::stable::empty({sizes, 4}, type, std::nullopt, like.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

inline Tensor zeros(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_zeros(like, {sizes.begin(), sizes.size()}, type);
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace cvlib
