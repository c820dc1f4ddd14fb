// The best match of each of N boxes among M others on the CPU, without the N x M matrix.
//
// Blocks of boxes stay in the first-level cache as arrays, with their best IoU so far; each of the
// M others is compared with the whole block in one vectorised loop. Work: N x M IoUs; memory: one
// block per thread.
#include <algorithm>
#include <tuple>

#include "../box_soa.h"
#include "../checks.h"
#include "../parallel.h"
#include "../torch_compat.h"

namespace cvlib {
namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kPairsPerTask = 32768;

template <class T>
struct BestOfBlock {
  T value[kBlock];
  int32_t index[kBlock];
};

template <class T>
void compare_with(const Box<T>& other, int32_t j, const BoxArrays<T>& block, int64_t count,
                  BestOfBlock<T>& best) {
  const T other_area = area(other);
  const T* __restrict x1 = block.x1;
  const T* __restrict y1 = block.y1;
  const T* __restrict x2 = block.x2;
  const T* __restrict y2 = block.y2;
  const T* __restrict areas = block.areas;
  T* __restrict value = best.value;
  int32_t* __restrict index = best.index;
  for (int64_t i = 0; i < count; ++i) {
    const T candidate = iou(Box<T>{x1[i], y1[i], x2[i], y2[i]}, areas[i], other, other_area);
    const bool better = candidate > value[i];
    value[i] = better ? candidate : value[i];
    index[i] = better ? j : index[i];
  }
}

template <class T>
void best_matches(const T* boxes, const T* others, int64_t m, int64_t begin, int64_t end, T* values,
                  int64_t* indices) {
  BoxArrays<T> block(kBlock);
  BestOfBlock<T> best;
  for (int64_t start = begin; start < end; start += kBlock) {
    const int64_t count = std::min(kBlock, end - start);
    for (int64_t i = 0; i < count; ++i) block.set(i, read_box(boxes + 4 * (start + i)));
    std::fill(best.value, best.value + count, T(0));
    std::fill(best.index, best.index + count, m > 0 ? 0 : -1);
    for (int64_t j = 0; j < m; ++j) {
      compare_with(read_box(others + 4 * j), static_cast<int32_t>(j), block, count, best);
    }
    std::copy(best.value, best.value + count, values + start);
    std::copy(best.index, best.index + count, indices + start);
  }
}

std::tuple<Tensor, Tensor> max_iou_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_boxes(boxes1, 2);
  check_boxes(boxes2, 2);
  check_same_dtype(boxes1, boxes2);
  const Tensor first = as_real(boxes1), second = as_real(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  STD_TORCH_CHECK(m <= INT32_MAX, "max_iou: more than 2^31 - 1 boxes to choose from");
  Tensor values = empty(first, {n}, first.scalar_type());
  Tensor indices = empty(first, {n}, ScalarType::Long);
  dispatch_floating(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *a = data<T>(first), *b = data<T>(second);
    check_values(are_valid(a, n) && are_valid(b, m));
    const int64_t grain = std::max(kBlock, kPairsPerTask / (m + 1));
    parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        best_matches(a, b, m, begin, end, mutable_data<T>(values), mutable_data<int64_t>(indices));
      });
    });
  });
  return {values, indices};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) { m.impl("max_iou", TORCH_BOX(&cvlib::max_iou_cpu)); }
