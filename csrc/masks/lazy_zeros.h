// Memory of large results that are mostly zero.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../torch_compat.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cvlib {

struct LazyZeros {
  Tensor tensor;
  bool is_zero;  // if false, the caller must write every element
};

// Blocks of this size are mapped anew in every call anyway. Pages from mmap are known to be zero,
// so those that receive no pixel are never touched. Huge pages would be cleared as a whole, so they
// are not requested here.
constexpr int64_t kLazyBytes = int64_t{32} << 20;

template <class T>
LazyZeros lazy_zeros(const Tensor& like, int64_t n, int64_t height, int64_t width,
                     ScalarType type) {
#if defined(__linux__)
  int64_t bytes = 0;
  const bool overflows = __builtin_mul_overflow(n, height, &bytes) ||
                         __builtin_mul_overflow(bytes, width, &bytes) ||
                         __builtin_mul_overflow(bytes, int64_t{sizeof(T)}, &bytes);
  if (!overflows && bytes >= kLazyBytes) {
    const size_t size = static_cast<size_t>(bytes);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
      const int64_t sizes[3] = {n, height, width};
      const int64_t strides[3] = {height * width, width, 1};
      const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
      return {torch::stable::from_blob(memory, {sizes, 3}, {strides, 3}, cpu, type,
                                       [size](void* pointer) { munmap(pointer, size); }),
              true};
    }
  }
#endif
  return {empty(like, {n, height, width}, type), false};
}

}  // namespace cvlib
