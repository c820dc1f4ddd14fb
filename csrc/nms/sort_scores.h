// Stable order of scores, best first, NaN last.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace cvlib {

// Maps a score to an unsigned integer; ascending keys are descending scores.
template <class T>
auto descending_key(T score) {
  using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Key kSign = Key(1) << (8 * sizeof(T) - 1);
  if (score != score) return static_cast<Key>(~Key(0));
  if (score == T(0)) score = T(0);  // -0 equals +0
  Key bits;
  std::memcpy(&bits, &score, sizeof(T));
  const Key ascending = (bits & kSign) ? static_cast<Key>(~bits) : static_cast<Key>(bits | kSign);
  return static_cast<Key>(~ascending);
}

template <class Key>
struct Ranked {
  Key key;
  int32_t index;
};

constexpr int64_t kSmallSort = 200;

// Least-significant-digit radix sort with 8 bits per pass; passes in which all digits are equal are
// skipped. O(n) operations; for float scores each pass reads and writes 8 bytes per item.
template <class Key>
void radix_sort(std::vector<Ranked<Key>>& items) {
  constexpr int kDigits = sizeof(Key);
  std::vector<uint32_t> counts(256 * kDigits, 0);
  for (const auto& item : items) {
    for (int d = 0; d < kDigits; ++d) ++counts[256 * d + ((item.key >> (8 * d)) & 255)];
  }
  std::vector<Ranked<Key>> other(items.size());
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* count = counts.data() + 256 * d;
    if (count[(items[0].key >> (8 * d)) & 255] == items.size()) continue;
    uint32_t start = 0;
    for (int digit = 0; digit < 256; ++digit) {
      const uint32_t size = count[digit];
      count[digit] = start;
      start += size;
    }
    for (const auto& item : items) other[count[(item.key >> (8 * d)) & 255]++] = item;
    items.swap(other);
  }
}

// order[rank] = index of the box with that rank.
template <class T>
std::vector<int32_t> descending_order(const T* scores, int64_t n) {
  using Key = decltype(descending_key(T{}));
  std::vector<Ranked<Key>> items(n);
  for (int64_t i = 0; i < n; ++i) items[i] = {descending_key(scores[i]), static_cast<int32_t>(i)};
  if (n < kSmallSort) {
    std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
      return a.key < b.key || (a.key == b.key && a.index < b.index);
    });
  } else {
    radix_sort(items);
  }
  std::vector<int32_t> order(n);
  for (int64_t i = 0; i < n; ++i) order[i] = items[i].index;
  return order;
}

}  // namespace cvlib
