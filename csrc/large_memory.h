// Memory of large results on the CPU, kept for the next one.
//
// The allocator of Linux takes every block of 32 MB or more fresh from the system and gives it back
// when it is freed. A page fault for every 4 KB then costs several times what writing the result
// costs, in every call. So blocks that are freed wait here, up to kMostKept bytes in all, as freed
// memory waits on a GPU; the oldest goes back to the system first.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>

namespace cvlib {

constexpr int64_t kLargeBytes = int64_t{32} << 20;

#if defined(__linux__)
class LargeMemory {
 public:
  struct Block {
    void* memory;
    int64_t size;
  };

  // Never destroyed, because tensors may outlive everything static.
  static LargeMemory& instance() {
    static LargeMemory* const memory = new LargeMemory;
    return *memory;
  }

  // A block of at least this many bytes, or none: {nullptr, 0}.
  Block take(int64_t bytes) {
    const int64_t size = (bytes + kPage - 1) / kPage * kPage;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = kept_.rbegin(); block != kept_.rend(); ++block) {
        // A block that is much too large would waste what somebody else may need.
        if (block->size < size || block->size > size + size / 4) continue;
        const Block found = *block;
        kept_.erase(std::next(block).base());
        total_ -= found.size;
        return found;
      }
    }
    void* memory = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return {nullptr, 0};
    // Advice: where the system gives no pages of 2 MB, small ones serve as well.
    madvise(memory, static_cast<size_t>(size), MADV_HUGEPAGE);
    return {memory, size};
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(block);
    total_ += block.size;
    // Also with a limit below 0, which a user may have set.
    while (total_ > most_kept_ && !kept_.empty()) {
      const Block oldest = kept_.front();
      kept_.pop_front();
      total_ -= oldest.size;
      munmap(oldest.memory, static_cast<size_t>(oldest.size));
    }
  }

 private:
  static constexpr int64_t kPage = int64_t{2} << 20;
  static constexpr int64_t kMostKeptMegabytes = 256;

  LargeMemory() {
    const char* wanted = std::getenv("CVLIB_KEPT_MEMORY_MB");
    const int64_t megabytes = wanted == nullptr ? kMostKeptMegabytes : std::atoll(wanted);
    most_kept_ = megabytes << 20;
  }

  std::mutex mutex_;
  std::deque<Block> kept_;  // oldest first
  int64_t total_ = 0, most_kept_ = 0;
};
#endif

}  // namespace cvlib
