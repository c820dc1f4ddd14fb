// Candidates of an image, best first, sorted only as far as they are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../nms/sort_scores.h"

namespace cvlib {

// Suppression reads the best few hundred of perhaps a hundred thousand candidates. So their keys
// are counted in buckets, the best buckets are sorted, and the rest waits for the next call.
template <class Key>
class BestFirst {
 public:
  // Candidates in ascending order of index.
  explicit BestFirst(std::vector<Ranked<Key>> candidates) : rest_(std::move(candidates)) {}

  // About `wanted` further candidates, best first (equal scores: lowest index); empty at the end.
  const std::vector<Ranked<Key>>& next(int64_t wanted) {
    best_.clear();
    if (static_cast<int64_t>(rest_.size()) <= 2 * wanted) {
      best_.swap(rest_);
    } else {
      cut(wanted);
    }
    if (best_.size() < kSmallSort) {
      std::sort(best_.begin(), best_.end(), [](const auto& a, const auto& b) {
        return a.key < b.key || (a.key == b.key && a.index < b.index);
      });
    } else {
      radix_sort(best_);
    }
    return best_;
  }

 private:
  static constexpr int kBucketBits = 11;

  void cut(int64_t wanted) {
    Key lowest = rest_[0].key, highest = rest_[0].key;
    for (const auto& item : rest_) {
      lowest = std::min(lowest, item.key);
      highest = std::max(highest, item.key);
    }
    int shift = 0;
    while (((highest - lowest) >> shift) >> kBucketBits) ++shift;
    std::vector<int64_t> sizes(size_t(1) << kBucketBits, 0);
    for (const auto& item : rest_) ++sizes[(item.key - lowest) >> shift];
    int64_t total = sizes[0];
    Key last = 0;
    while (total < wanted) total += sizes[++last];
    best_.resize(total + 1);
    size_t taken = 0, left = 0;
    for (const auto& item : rest_) {
      const bool is_best = ((item.key - lowest) >> shift) <= last;
      best_[taken] = item;
      rest_[left] = item;
      taken += is_best;
      left += !is_best;
    }
    best_.resize(taken);
    rest_.resize(left);
  }

  std::vector<Ranked<Key>> best_, rest_;
};

}  // namespace cvlib
