// Large pages for large results.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

#include "torch_compat.h"

namespace cvlib {

// From this size on the allocator of Linux takes every block fresh from the system and returns it
// when it is freed, so that the advice below lives as long as the tensor.
constexpr int64_t kAlwaysFresh = int64_t{32} << 20;

// Writing into fresh memory costs a page fault for each 4 KB, several times the time of the writing
// itself. With pages of 2 MB it is 512 times fewer faults. It is advice: where the system does not
// give large pages nothing changes.
inline void advise_huge_pages(const Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const int64_t bytes = fresh.numel() * static_cast<int64_t>(fresh.element_size());
  if (bytes < kAlwaysFresh) return;
  const auto memory = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (memory + kPage - 1) / kPage * kPage;
  const uintptr_t end = (memory + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace cvlib
