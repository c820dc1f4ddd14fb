// Large results in large pages.
#pragma once

#include "../torch_compat.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cvlib {

// Memory above malloc's threshold comes fresh from the system, and its first use costs a fault for
// every 4 KB, more than the arithmetic that fills it. Asks for pages of 2 MB instead. A hint: where
// it is refused nothing changes.
inline void use_huge_pages(const Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  constexpr int64_t kFresh = int64_t{32} << 20;  // the highest threshold of glibc's malloc
  const int64_t bytes = fresh.numel() * fresh.element_size();
  if (bytes < kFresh) return;
  const auto begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage,
                  end = (begin + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace cvlib
