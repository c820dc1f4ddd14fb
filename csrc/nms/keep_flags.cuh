// Keep flags of greedy suppression on CUDA: boxes gathered by rank, suppressed (nms_core.cuh) and
// limited per image. A Rule says what the boxes are, as in nms_core.cuh.
#pragma once

#include <optional>

#include "arguments.h"
#include "nms_core.cuh"

namespace cvlib {

// By rank of score.
template <class Rule>
struct Gathered {
  typename Rule::BoxType* boxes;
  int64_t* labels;  // null without labels
  int64_t* images;  // null without image ids
  uint8_t* removed;
};

template <class Rule, class T>
__global__ void gather_kernel(const T* __restrict__ boxes, const T* __restrict__ scores,
                              const int64_t* __restrict__ labels,
                              const int64_t* __restrict__ images, const int64_t* __restrict__ order,
                              int64_t n, Gathered<Rule> out) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= n) return;
  const int64_t i = order[rank];
  const T* row = boxes + Rule::kFields * i;
  out.boxes[rank] = Rule::read(row);
  out.removed[rank] = Rule::row_has_nan(row) || is_nan(scores[i]);
  if (labels != nullptr) out.labels[rank] = labels[i];
  if (images != nullptr) out.images[rank] = images[i];
}

namespace {

// Drops a kept box behind `max_output` kept boxes of its image. Reads one array and writes another:
// the count is over the flags before the limit, so no box waits for another.
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

}  // namespace

// Shape (n,), bool, by rank: `order` holds the index of the box of each rank.
template <class T, class Rule>
Tensor keep_flags(const Rule& rule, const Tensor& boxes, const Tensor& scores,
                  const std::optional<Tensor>& labels, const std::optional<Tensor>& images,
                  const Tensor& order, int64_t max_output) {
  const int64_t n = boxes.size(0);
  const int64_t box_bytes = static_cast<int64_t>(sizeof(typename Rule::BoxType));
  const cudaStream_t stream = current_stream(boxes);
  const Tensor sorted_boxes = empty(boxes, {n, box_bytes}, ScalarType::Byte);
  const Tensor sorted_labels = empty(boxes, {labels ? n : 0}, ScalarType::Long);
  const Tensor sorted_images = empty(boxes, {images ? n : 0}, ScalarType::Long);
  const Tensor removed = empty(boxes, {n}, ScalarType::Byte);
  const Tensor keep = zeros(boxes, {n}, ScalarType::Bool);
  const Gathered<Rule> sorted{static_cast<typename Rule::BoxType*>(sorted_boxes.mutable_data_ptr()),
                              labels ? mutable_data<int64_t>(sorted_labels) : nullptr,
                              images ? mutable_data<int64_t>(sorted_images) : nullptr,
                              mutable_data<uint8_t>(removed)};
  gather_kernel<Rule, T><<<blocks_for(n), kThreads, 0, stream>>>(data<T>(boxes), data<T>(scores),
                                                                 id_data(labels), id_data(images),
                                                                 data<int64_t>(order), n, sorted);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  NmsProblem<Rule> problem{};
  problem.boxes = sorted.boxes;
  problem.labels = sorted.labels;
  problem.images = sorted.images;
  problem.removed = sorted.removed;
  problem.keep = mutable_data<uint8_t>(keep);
  problem.n = n;
  problem.max_total = images ? n : max_output;
  problem.rule = rule;
  launch_nms(problem, 1, boxes, stream);
  if (!images || max_output >= n) return keep;
  const Tensor limited = empty(boxes, {n}, ScalarType::Bool);
  limit_kernel<<<blocks_for(n), kThreads, 0, stream>>>(problem.keep, problem.images, n, max_output,
                                                       mutable_data<uint8_t>(limited));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return limited;
}

}  // namespace cvlib
