// Matrix non-maximum suppression on the CPU, for one group of boxes or one per image and class.
//
// Sort by score (radix), then run each group on its own (matrix_nms_core.h), in parallel over
// groups and over the chunks of a group. Memory is linear in the number of boxes.
#include <optional>

#include "../checks.h"
#include "../nms/arguments.h"
#include "../nms/groups.h"
#include "../nms/sort_scores.h"
#include "matrix_nms_core.h"

namespace cvlib {
namespace {

constexpr int64_t kBoxesPerTask = 512;

Tensor matrix_nms_cpu(const Tensor& boxes_in, const Tensor& scores_in,
                      std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                      bool gaussian, double sigma) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  const int64_t n = boxes_in.size(0);
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  Tensor out = empty(boxes, {n}, boxes.scalar_type());
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    check_values(are_valid(data<T>(boxes), n) && has_no_nan(data<T>(scores), n));
    const DenseIds groups = combine(make_dense(id_data(images), n), make_dense(id_data(labels), n));
    const Members members = collect_members(descending_order(data<T>(scores), n), groups);
    T* factors = mutable_data<T>(out);
    for_each_group(members, kBoxesPerTask, [&](const int32_t* indices, int64_t size) {
      MatrixSuppressor<T> suppressor(data<T>(boxes), indices, size);
      suppressor.run(gaussian, static_cast<T>(sigma),
                     [&](int32_t rank, T factor) { factors[indices[rank]] = factor; });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("matrix_nms", TORCH_BOX(&cvlib::matrix_nms_cpu));
}
