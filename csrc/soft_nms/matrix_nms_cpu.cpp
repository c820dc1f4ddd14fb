// Matrix non-maximum suppression on the CPU, for one group of boxes or one per image and class.
//
// Sort (radix), then each group on its own (matrix_nms_core.h), in parallel over groups and over
// the chunks of a group. Memory is linear in the number of boxes.
#include <optional>

#include "../checks.h"
#include "../nms/arguments.h"
#include "../nms/members.h"
#include "../nms/sort_scores.h"
#include "matrix_nms_core.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 512;

Tensor matrix_nms_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                      std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                      bool gaussian, double sigma) {
  check_boxes(boxes_in, 2);
  check_same_dtype(boxes_in, scores_in);
  const int64_t n = boxes_in.size(0);
  STD_TORCH_CHECK(scores_in.dim() == 1 && scores_in.size(0) == n, "matrix_nms: a score per box");
  STD_TORCH_CHECK(n < SpatialChunks<float>::kNoRank, "matrix_nms: 2^31 - 1 boxes or more");
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  Tensor out = empty(boxes, {n}, boxes.scalar_type());
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_valid(data<T>(boxes), n) && are_numbers(data<T>(scores), n));
    const DenseIds groups = combine(make_dense(pointer(images), n), make_dense(pointer(labels), n));
    const Members members = collect_members(descending_order(data<T>(scores), n), groups);
    const int64_t groups_per_task = kBoxesPerTask * members.count() / (n + 1) + 1;
    T* factors = mutable_data<T>(out);
    parallel_for(members.count(), groups_per_task, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const int32_t* own = members.begin(g);
        MatrixSuppressor<T> suppressor(data<T>(boxes), own, members.size(g));
        suppressor.run(gaussian, static_cast<T>(sigma),
                       [&](int32_t rank, T factor) { factors[own[rank]] = factor; });
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("matrix_nms", TORCH_BOX(&cvlib::matrix_nms_cpu));
}
