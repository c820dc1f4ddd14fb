// Memory of large results on the CPU, kept for later results.
//
// On Linux the C library maps every block of 32 MB or more anew and unmaps it when it is freed. In
// every call, the page faults (one per 4 KB) then cost several times as much as writing the result.
// So freed blocks are cached here, as on a GPU, up to a total size (CVLIB_KEPT_MEMORY_MB); the
// oldest are returned to the system first.
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

  // Never destroyed, because tensors may outlive static objects.
  static LargeMemory& instance() {
    static LargeMemory* const memory = new LargeMemory;
    return *memory;
  }

  // A block of at least this many bytes, or {nullptr, 0} when there is no memory.
  Block take(int64_t bytes) {
    const int64_t size = (bytes + kPage - 1) / kPage * kPage;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = kept_.rbegin(); block != kept_.rend(); ++block) {
        // A much larger block would be wasted on this result.
        if (block->size < size || block->size > size + size / 4) continue;
        const Block reused = *block;
        kept_.erase(std::next(block).base());
        total_ -= reused.size;
        return reused;
      }
    }
    void* memory = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return {nullptr, 0};
    // Only advice: without pages of 2 MB, small ones work as well.
    madvise(memory, static_cast<size_t>(size), MADV_HUGEPAGE);
    return {memory, size};
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(block);
    total_ += block.size;
    // Users may have set a negative limit: do not pop from an empty queue.
    while (total_ > max_kept_ && !kept_.empty()) {
      const Block oldest = kept_.front();
      kept_.pop_front();
      total_ -= oldest.size;
      munmap(oldest.memory, static_cast<size_t>(oldest.size));
    }
  }

 private:
  static constexpr int64_t kPage = int64_t{2} << 20;
  static constexpr int64_t kDefaultMegabytes = 256;

  LargeMemory() {
    const char* wanted = std::getenv("CVLIB_KEPT_MEMORY_MB");
    const int64_t megabytes = wanted == nullptr ? kDefaultMegabytes : std::atoll(wanted);
    max_kept_ = megabytes << 20;
  }

  std::mutex mutex_;
  std::deque<Block> kept_;  // oldest first
  int64_t total_ = 0, max_kept_ = 0;
};
#endif

}  // namespace cvlib
