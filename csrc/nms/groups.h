// Boxes on the CPU grouped by image and class: only boxes of one group suppress each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../parallel.h"

namespace cvlib {

// Ids of any size and sign, renumbered 0..count-1 in ascending order.
struct DenseIds {
  std::vector<int32_t> ids;  // may be empty if count is 1
  int64_t count = 1;

  int32_t operator[](int64_t i) const { return count == 1 ? 0 : ids[i]; }
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

// With null `ids` all boxes share one group.
inline DenseIds make_dense(const int64_t* ids, int64_t n) {
  if (ids == nullptr || n == 0) return {};
  const auto [lowest, highest] = std::minmax_element(ids, ids + n);
  // Unsigned, so that the range of extreme ids does not overflow.
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

// Indices of the boxes of each group, group after group in one array.
struct Members {
  std::vector<int64_t> start;  // first entry of each group in `boxes`, then the total
  std::vector<int32_t> boxes;  // in the order of `collect_members` within a group

  int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
  int64_t size(int64_t group) const { return start[group + 1] - start[group]; }
  const int32_t* begin(int64_t group) const { return boxes.data() + start[group]; }
};

// Distributes the boxes in `order` to their groups; other boxes belong to none.
inline Members collect_members(const std::vector<int32_t>& order, const DenseIds& groups) {
  if (groups.count == 1) return {{0, static_cast<int64_t>(order.size())}, order};
  Members members{std::vector<int64_t>(groups.count + 1, 0), std::vector<int32_t>(order.size())};
  for (const int32_t i : order) ++members.start[groups.ids[i] + 1];
  for (int64_t g = 0; g < groups.count; ++g) members.start[g + 1] += members.start[g];
  std::vector<int64_t> next(members.start.begin(), members.start.end() - 1);
  for (const int32_t i : order) members.boxes[next[groups.ids[i]]++] = i;
  return members;
}

// Calls function(indices, size) for each group, in parallel tasks of about `boxes_per_task` boxes.
template <class Function>
void for_each_group(const Members& members, int64_t boxes_per_task, const Function& function) {
  const int64_t n = static_cast<int64_t>(members.boxes.size());
  const int64_t groups_per_task = boxes_per_task * members.count() / (n + 1) + 1;
  parallel_for(members.count(), groups_per_task, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) function(members.begin(g), members.size(g));
  });
}

}  // namespace cvlib
