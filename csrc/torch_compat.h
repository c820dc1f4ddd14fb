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

// From this size on memory comes fresh from the system, and a page fault for every 4 KB costs more
// than most kernels: whoever fills it asks for pages of 2 MB.
constexpr int64_t kFreshBytes = int64_t{4} << 20;

inline void prefer_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  // A hint: where the system refuses, small pages serve as well.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline Tensor empty(const Tensor& like, Sizes sizes, ScalarType type) {
  Tensor fresh = torch::stable::new_empty(like, sizes, type);
  const int64_t bytes = fresh.numel() * static_cast<int64_t>(fresh.element_size());
  if (bytes >= kFreshBytes && fresh.is_cpu()) prefer_huge_pages(fresh.mutable_data_ptr(), bytes);
  return fresh;
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
