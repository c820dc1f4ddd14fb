// What the kernels need of torch, on the stable ABI: one binary serves every torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <initializer_list>
#include <utility>

namespace cvlib {

using Tensor = torch::stable::Tensor;
using torch::headeronly::ScalarType;

// Calls function(T{}) with T float or double. Half types never get here: see as_real.
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

// Contiguous, and float32 where it was float16 or bfloat16.
inline Tensor as_real(const Tensor& tensor) {
  const Tensor real = is_half(tensor) ? torch::stable::to(tensor, ScalarType::Float) : tensor;
  return real.is_contiguous() ? real : torch::stable::contiguous(real);
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// From this size on the allocator of Linux takes every block fresh from the system and gives it
// back when it is freed, so that the advice below lives as long as the tensor.
constexpr int64_t kAlwaysFresh = int64_t{32} << 20;

// Fresh memory costs a page fault for every 4 KB, several times what writing it costs: asks for
// pages of 2 MB. It is advice: where the system does not give them nothing changes.
inline Tensor with_huge_pages(Tensor fresh) {
#if defined(__linux__)
  const int64_t bytes = fresh.numel() * static_cast<int64_t>(fresh.element_size());
  if (bytes < kAlwaysFresh || !fresh.is_cpu()) return fresh;
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t memory = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t first = (memory + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (memory + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return fresh;
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline Tensor empty(const Tensor& like, Sizes sizes, ScalarType type) {
  return with_huge_pages(torch::stable::new_empty(like, sizes, type));
}

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return empty(like, Sizes(sizes.begin(), sizes.size()), type);
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
