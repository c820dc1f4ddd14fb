// The boxes of each group, in one array, group after group.
#pragma once

#include <cstdint>
#include <vector>

#include "groups.h"

namespace cvlib {

struct Members {
  std::vector<int64_t> start;  // of each group in `boxes`, and the end
  std::vector<int32_t> boxes;  // within a group in the order in which they were given

  int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
  int64_t size(int64_t group) const { return start[group + 1] - start[group]; }
  const int32_t* begin(int64_t group) const { return boxes.data() + start[group]; }
};

// Puts the boxes `order` into their groups; boxes that are not in `order` are in none.
inline Members collect_members(const std::vector<int32_t>& order, const DenseIds& groups) {
  Members members{std::vector<int64_t>(groups.count + 1, 0), std::vector<int32_t>(order.size())};
  for (const int32_t i : order) ++members.start[groups.ids[i] + 1];
  for (int64_t g = 0; g < groups.count; ++g) members.start[g + 1] += members.start[g];
  std::vector<int64_t> next(members.start.begin(), members.start.end() - 1);
  for (const int32_t i : order) members.boxes[next[groups.ids[i]]++] = i;
  return members;
}

}  // namespace cvlib
