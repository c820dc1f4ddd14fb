// Soft non-maximum suppression on CUDA: a block for each image and class.
//
// In each round the block finds its best score and lowers the others: one pass over the group and
// two reductions by warps. The selected scores of all groups are then sorted together. Work:
// selected x group pairs; memory is linear. One host synchronisation, for the number of selected
// boxes.
#include <optional>
#include <tuple>

#include "../checks.h"
#include "../nms/grouped_cuda.cuh"
#include "decay.h"

namespace cvlib {
namespace {

constexpr int kFewThreads = 128;    // per block, for many groups
constexpr int kManyThreads = 1024;  // for a single group

template <class T>
struct SoftProblem {
  Grouped groups;
  Box<T>* boxes;      // by position
  T* scores;          // by position
  T* decayed;         // by input index: the score at selection, or kOut
  uint8_t* selected;  // by input index
  SoftDecay<T> decay;
  int64_t limit;
};

template <class T>
__global__ void prepare_kernel(const T* __restrict__ boxes, const T* __restrict__ scores,
                               SoftProblem<T> p) {
  const int64_t position = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (position >= p.groups.n) return;
  const int64_t i = p.groups.order[position];
  const Box<T> box = read_box(boxes + 4 * i);
  const bool is_candidate = scores[i] >= p.decay.score_threshold && !has_nan(box);
  p.boxes[position] = box;
  p.scores[position] = is_candidate ? scores[i] + T(0) : kOut<T>;  // -0 becomes 0
  p.decayed[i] = kOut<T>;
  p.selected[i] = 0;
}

template <class T, bool kGaussian>
__global__ void __launch_bounds__(kManyThreads) soft_nms_kernel(SoftProblem<T> p) {
  const int64_t begin = blockIdx.x;
  if (!p.groups.starts(begin)) return;
  const int64_t end = p.groups.end(begin);
  Placed<T> own{kOut<T>, end};
  for (int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) {
    own = better(own, Placed<T>{p.scores[j], j});
  }
  for (int64_t round = 0; round < p.limit; ++round) {
    const Placed<T> best = best_of_block(own);
    if (best.value < T(0)) return;
    if (threadIdx.x == 0) {
      const int64_t i = p.groups.order[best.position];
      p.decayed[i] = best.value;
      p.selected[i] = 1;
    }
    const Box<T> box = p.boxes[best.position];
    const T box_area = area(box);
    own = {kOut<T>, end};
    for (int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) {
      if (p.scores[j] < T(0)) continue;
      const Box<T> other = p.boxes[j];
      const T overlap = iou(box, box_area, other, area(other));
      const T lowered = p.decay.template lower<kGaussian>(p.scores[j], overlap);
      const bool stays = lowered >= p.decay.score_threshold && j != best.position;
      p.scores[j] = stays ? lowered : kOut<T>;
      own = better(own, Placed<T>{p.scores[j], j});
    }
  }
}

// Flags the selected boxes by rank, except those beyond the limit of their image.
__global__ void limit_kernel(const int64_t* __restrict__ order,
                             const uint8_t* __restrict__ selected,
                             const int64_t* __restrict__ images, int64_t n, int64_t limit,
                             uint8_t* __restrict__ keep) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= n) return;
  const int64_t i = order[rank];
  int64_t before = 0;
  if (selected[i] && limit < n) {
    for (int64_t other = 0; other < rank && before < limit; ++other) {
      const int64_t j = order[other];
      before += selected[j] && (images == nullptr || images[i] == images[j]);
    }
  }
  keep[rank] = selected[i] && before < limit;
}

template <class T>
std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores,
                                    const std::optional<Tensor>& labels,
                                    const std::optional<Tensor>& images, bool gaussian,
                                    const SoftDecay<T>& decay, int64_t limit) {
  const int64_t n = boxes.size(0);
  const cudaStream_t stream = current_stream(boxes);
  const Tensor positions =
      group_positions(first_positions(boxes, n, stream), labels, images, stream);
  const Tensor sorted_boxes = empty(boxes, {n, 4}, boxes.scalar_type());
  const Tensor sorted_scores = empty(boxes, {n}, boxes.scalar_type());
  const Tensor decayed = empty(boxes, {n}, boxes.scalar_type());
  const Tensor selected = empty(boxes, {n}, ScalarType::Byte);
  const SoftProblem<T> problem{{data<int64_t>(positions), id_data(labels), id_data(images), n},
                               static_cast<Box<T>*>(sorted_boxes.mutable_data_ptr()),
                               mutable_data<T>(sorted_scores),
                               mutable_data<T>(decayed),
                               mutable_data<uint8_t>(selected),
                               decay,
                               limit};
  prepare_kernel<T>
      <<<blocks_for(n), kThreads, 0, stream>>>(data<T>(boxes), data<T>(scores), problem);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const unsigned blocks = problem.groups.blocks();
  const int threads = blocks == 1 ? kManyThreads : kFewThreads;
  if (gaussian) {
    soft_nms_kernel<T, true><<<blocks, threads, 0, stream>>>(problem);
  } else {
    soft_nms_kernel<T, false><<<blocks, threads, 0, stream>>>(problem);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor order = sort_descending(decayed).second;
  const Tensor keep = empty(boxes, {n}, ScalarType::Bool);
  limit_kernel<<<blocks_for(n), kThreads, 0, stream>>>(data<int64_t>(order), problem.selected,
                                                       id_data(images), n, limit,
                                                       mutable_data<uint8_t>(keep));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor kept = masked_select(order, keep);
  return {kept, take<T>(decayed, kept, stream)};
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes_in, const Tensor& scores_in,
                                         std::optional<Tensor> labels_in,
                                         std::optional<Tensor> images_in, bool gaussian,
                                         double iou_threshold, double sigma, double score_threshold,
                                         int64_t max_output) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const int64_t n = boxes.size(0);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  if (n == 0) return {empty(boxes, {0}, ScalarType::Long), empty(boxes, {0}, boxes.scalar_type())};
  std::tuple<Tensor, Tensor> out{boxes, scores};
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    out = soft_nms<T>(boxes, scores, labels, images, gaussian,
                      make_soft_decay<T>(iou_threshold, sigma, score_threshold),
                      output_limit(max_output, n));
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&cvlib::soft_nms_cuda)); }
