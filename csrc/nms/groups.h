// Groups of boxes that may suppress each other: one per image and class.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cvlib {

// Ids of any size and sign as 0..count-1, in ascending order of the ids.
struct DenseIds {
  std::vector<int32_t> ids;
  int64_t count = 1;
};

inline DenseIds dense_by_table(const int64_t* ids, int64_t n, int64_t lowest, int64_t range) {
  std::vector<int32_t> table(range, 0);
  for (int64_t i = 0; i < n; ++i) table[ids[i] - lowest] = 1;
  int32_t count = 0;
  for (auto& entry : table) entry = entry ? count++ : -1;
  DenseIds dense{std::vector<int32_t>(n), count};
  for (int64_t i = 0; i < n; ++i) dense.ids[i] = table[ids[i] - lowest];
  return dense;
}

inline DenseIds dense_by_sorting(const int64_t* ids, int64_t n) {
  std::vector<int64_t> values(ids, ids + n);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  DenseIds dense{std::vector<int32_t>(n), static_cast<int64_t>(values.size())};
  for (int64_t i = 0; i < n; ++i) {
    dense.ids[i] = static_cast<int32_t>(std::lower_bound(values.begin(), values.end(), ids[i]) -
                                        values.begin());
  }
  return dense;
}

// ids may be null: all in one group.
inline DenseIds make_dense(const int64_t* ids, int64_t n) {
  if (ids == nullptr || n == 0) return {std::vector<int32_t>(n, 0), 1};
  const auto [lowest, highest] = std::minmax_element(ids, ids + n);
  // As unsigned, so that the range of extreme ids does not overflow.
  const uint64_t range = static_cast<uint64_t>(*highest) - static_cast<uint64_t>(*lowest);
  const uint64_t cheap = static_cast<uint64_t>(8 * n + 1024);
  if (range < cheap) return dense_by_table(ids, n, *lowest, static_cast<int64_t>(range) + 1);
  return dense_by_sorting(ids, n);
}

inline DenseIds combine(const DenseIds& images, const DenseIds& labels) {
  if (images.count == 1) return labels;
  if (labels.count == 1) return images;
  std::vector<int64_t> pairs(images.ids.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i] = static_cast<int64_t>(images.ids[i]) * labels.count + labels.ids[i];
  }
  return make_dense(pairs.data(), static_cast<int64_t>(pairs.size()));
}

}  // namespace cvlib
