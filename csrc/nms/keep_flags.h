// Keep flags of greedy suppression on the CPU: set group by group, limited per image, then turned
// into the indices of the kept boxes, best first.
#pragma once

#include <cstdint>
#include <vector>

#include "../torch_compat.h"
#include "groups.h"

namespace cvlib {

// Flags by rank. `suppress(indices, size, keep)` flags the kept boxes of one group by position.
template <class Suppress>
std::vector<uint8_t> keep_per_group(const std::vector<int32_t>& order, const DenseIds& groups,
                                    int64_t boxes_per_task, const Suppress& suppress) {
  const size_t n = order.size();
  std::vector<uint8_t> keep(n, 0);
  if (groups.count == 1) {
    suppress(order.data(), static_cast<int64_t>(n), keep.data());
    return keep;
  }
  const Members members = collect_members(order, groups);
  std::vector<uint8_t> by_position(n, 0), by_index(n);
  for_each_group(members, boxes_per_task, [&](const int32_t* indices, int64_t size) {
    suppress(indices, size, by_position.data() + (indices - members.boxes.data()));
  });
  for (size_t position = 0; position < n; ++position) {
    by_index[members.boxes[position]] = by_position[position];
  }
  for (size_t rank = 0; rank < n; ++rank) keep[rank] = by_index[order[rank]];
  return keep;
}

// Drops the kept boxes of each image beyond its `max_output` best.
inline void limit_per_image(const std::vector<int32_t>& order, const DenseIds& images,
                            int64_t max_output, std::vector<uint8_t>& keep) {
  std::vector<int64_t> left(images.count, max_output);
  for (size_t rank = 0; rank < keep.size(); ++rank) {
    if (keep[rank] && --left[images[order[rank]]] < 0) keep[rank] = 0;
  }
}

inline Tensor kept_indices(const Tensor& like, const std::vector<int32_t>& order,
                           const std::vector<uint8_t>& keep) {
  int64_t count = 0;
  for (const uint8_t flag : keep) count += flag;
  Tensor out = empty(like, {count}, ScalarType::Long);
  int64_t* indices = mutable_data<int64_t>(out);
  for (size_t rank = 0; rank < keep.size(); ++rank) {
    if (keep[rank]) *indices++ = order[rank];
  }
  return out;
}

}  // namespace cvlib
