// The operator cvlib::nms on CUDA: sort, gather, suppress (nms_cuda.cuh), limit, compact.
#include <optional>

#include "../checks.h"
#include "../cuda_aten.cuh"
#include "nms_cuda.cuh"

namespace cvlib {
namespace {

template <class T>
struct Gathered {
  Box<T>* boxes;
  int64_t* labels;  // null where there are none
  int64_t* images;
  uint8_t* removed;
};

template <class T>
__global__ void gather_kernel(const T* __restrict__ boxes, const T* __restrict__ scores,
                              const int64_t* __restrict__ labels,
                              const int64_t* __restrict__ images, const int64_t* __restrict__ order,
                              int64_t n, Gathered<T> out) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= n) return;
  const int64_t i = order[rank];
  const Box<T> box{boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
  out.boxes[rank] = box;
  out.removed[rank] = has_nan(box) || is_nan(scores[i]);
  if (labels != nullptr) out.labels[rank] = labels[i];
  if (images != nullptr) out.images[rank] = images[i];
}

// Drops a kept box when max_output kept boxes of its image come before it. Reads one array, writes
// another: the count is over what suppression kept, so no box waits for another.
__global__ void limit_kernel(const uint8_t* __restrict__ keep, const int64_t* __restrict__ images,
                             int64_t n, int64_t max_output, uint8_t* __restrict__ limited) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= n) return;
  int64_t before = 0;
  if (keep[rank]) {
    for (int64_t other = 0; other < rank && before < max_output; ++other) {
      before += keep[other] && images[other] == images[rank];
    }
  }
  limited[rank] = keep[rank] && before < max_output;
}

std::optional<Tensor> contiguous_ids(const std::optional<Tensor>& ids, int64_t n) {
  if (!ids.has_value()) return std::nullopt;
  STD_TORCH_CHECK(ids->dim() == 1 && ids->size(0) == n && ids->scalar_type() == ScalarType::Long,
                  "nms: expected int64 ids, one for each box");
  return as_contiguous(*ids);
}

const int64_t* pointer(const std::optional<Tensor>& ids) {
  return ids ? data<int64_t>(*ids) : nullptr;
}

template <class T>
Tensor keep_flags(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& labels,
                  const std::optional<Tensor>& images, const Tensor& order, double iou_threshold,
                  int64_t max_output, cudaStream_t stream) {
  const int64_t n = boxes.size(0);
  const Tensor sorted = empty(boxes, {n, 4}, boxes.scalar_type());
  const Tensor removed = empty(boxes, {n}, ScalarType::Byte);
  const Tensor sorted_labels = empty(boxes, {labels ? n : 0}, ScalarType::Long);
  const Tensor sorted_images = empty(boxes, {images ? n : 0}, ScalarType::Long);
  const Tensor keep = zeros(boxes, {n}, ScalarType::Bool);
  const Gathered<T> gathered{reinterpret_cast<Box<T>*>(sorted.mutable_data_ptr()),
                             labels ? mutable_data<int64_t>(sorted_labels) : nullptr,
                             images ? mutable_data<int64_t>(sorted_images) : nullptr,
                             mutable_data<uint8_t>(removed)};
  gather_kernel<T><<<blocks_for(n), kThreads, 0, stream>>>(data<T>(boxes), data<T>(scores),
                                                           pointer(labels), pointer(images),
                                                           data<int64_t>(order), n, gathered);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  NmsProblem<T> problem{};
  problem.boxes = gathered.boxes;
  problem.labels = gathered.labels;
  problem.images = gathered.images;
  problem.removed = gathered.removed;
  problem.keep = static_cast<uint8_t*>(keep.mutable_data_ptr());
  problem.n = n;
  problem.max_total = images ? n : max_output;
  problem.threshold = round_down<T>(iou_threshold);
  launch_nms(problem, 1, boxes, stream);
  if (!images || max_output >= n) return keep;
  const Tensor limited = empty(boxes, {n}, ScalarType::Bool);
  limit_kernel<<<blocks_for(n), kThreads, 0, stream>>>(
      problem.keep, problem.images, n, max_output,
      static_cast<uint8_t*>(limited.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return limited;
}

Tensor nms_cuda(const Tensor& boxes_in, const Tensor& scores_in, std::optional<Tensor> labels_in,
                std::optional<Tensor> images_in, double iou_threshold, int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_same_dtype(boxes_in, scores_in);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const int64_t n = boxes.size(0);
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == n, "nms: expected a score per box");
  if (n == 0) return empty(boxes, {0}, ScalarType::Long);
  const int64_t limit = max_output < 0 ? n : max_output;
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  const Tensor order = sort_descending(scores).second;
  const cudaStream_t stream = current_stream(boxes);
  Tensor keep = order;
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    keep = keep_flags<T>(boxes, scores, labels, images, order, iou_threshold, limit, stream);
  });
  return masked_select(order, keep);
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) { m.impl("nms", TORCH_BOX(&cvlib::nms_cuda)); }
