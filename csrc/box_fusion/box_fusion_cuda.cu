// Weighted boxes fusion on CUDA: a block for each image and label.
//
// Boxes are sorted by weighted score and then into groups. A block takes the boxes of its group in
// order, compares each with all clusters so far and adds it to the best one, or starts a new one.
// Work: boxes x clusters per group; memory is linear in the number of boxes. One host
// synchronisation, for the number of clusters.
#include <optional>
#include <tuple>

#include "../checks.h"
#include "../nms/grouped_cuda.cuh"
#include "arguments.h"
#include "cluster.h"

namespace cvlib {
namespace {

constexpr int kGroupThreads = 128;
constexpr double kLeftOut = -1;  // score of boxes that take no part; real scores are never negative

template <class T>
struct FusionProblem {
  Grouped groups;
  const T* boxes;          // by input index
  const int64_t* models;   // by input index
  const double* weighted;  // by input index
  FusionSettings settings;
  Cluster* clusters;   // by position; those of a group begin at its first position
  int64_t* first;      // by position: input index of the first box of the cluster
  double* scores;      // by input index of a first box: fused score; otherwise kLeftOut
  int64_t* positions;  // by input index of a first box: position of its cluster
};

template <class T>
__global__ void weight_kernel(const T* __restrict__ boxes, const T* __restrict__ scores,
                              const int64_t* __restrict__ models,
                              const double* __restrict__ weights, int64_t num_models, int64_t n,
                              double score_threshold, double* __restrict__ weighted,
                              double* __restrict__ fused_scores) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const double score = static_cast<double>(scores[i]);
  const int64_t model = models[i];
  const bool is_valid = score >= score_threshold && model >= 0 && model < num_models &&
                        !has_nan(read_box(boxes + 4 * i));
  weighted[i] = is_valid ? score * weights[model] : kLeftOut;
  fused_scores[i] = kLeftOut;
}

template <class T>
__device__ Candidate read_candidate(const FusionProblem<T>& p, int64_t i) {
  const Box<T> box = read_box(p.boxes + 4 * i);
  return {{box.x1, box.y1, box.x2, box.y2}, p.weighted[i], p.models[i]};
}

template <class T>
__global__ void fuse_kernel(FusionProblem<T> p) {
  const int64_t begin = blockIdx.x;
  if (!p.groups.starts(begin)) return;
  const int64_t end = p.groups.end(begin);
  Cluster* clusters = p.clusters + begin;
  int64_t count = 0;
  for (int64_t position = begin; position < end; ++position) {
    const int64_t i = p.groups.order[position];
    const Candidate candidate = read_candidate(p, i);
    if (candidate.score < 0) break;  // all that follow are left out, too
    const double box_area = area(candidate.box);
    Placed<double> own{0, count};
    for (int64_t c = threadIdx.x; c < count; c += blockDim.x) {
      const Box<double> fused = clusters[c].fused;
      own = better(own, Placed<double>{iou(candidate.box, box_area, fused, area(fused)), c});
    }
    const Placed<double> best = best_of_block(own);
    const bool joins = best.value > p.settings.iou_threshold;
    if (threadIdx.x == 0) {
      const double weight = p.settings.weights[candidate.model];
      if (joins) {
        join_cluster(clusters[best.position], candidate, weight);
      } else {
        clusters[count] = start_cluster(candidate, weight);
        p.first[begin + count] = i;
      }
    }
    count += !joins;
    __syncthreads();
  }
  const FusionSettings settings = with_weight_sums(p.settings);
  for (int64_t c = threadIdx.x; c < count; c += blockDim.x) {
    const int64_t i = p.first[begin + c];
    p.scores[i] = fused_score(clusters[c], settings);
    p.positions[i] = begin + c;
  }
}

__global__ void flag_kernel(const double* __restrict__ sorted_scores, int64_t n,
                            uint8_t* __restrict__ flags) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank < n) flags[rank] = sorted_scores[rank] >= 0;
}

template <class T>
__global__ void write_kernel(const int64_t* __restrict__ starts, int64_t count, FusionProblem<T> p,
                             T* __restrict__ boxes, T* __restrict__ scores) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= count) return;
  const int64_t i = starts[rank];
  const Box<double> box = p.clusters[p.positions[i]].fused;
  write_box(Box<T>{T(box.x1), T(box.y1), T(box.x2), T(box.y2)}, boxes + 4 * rank);
  scores[rank] = static_cast<T>(p.scores[i]);
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T>
Outputs fuse(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& labels,
             const Tensor& models, const std::optional<Tensor>& images, double score_threshold,
             const FusionSettings& settings) {
  const int64_t n = boxes.size(0);
  const cudaStream_t stream = current_stream(boxes);
  const Tensor weighted = empty(boxes, {n}, ScalarType::Double);
  const Tensor fused_scores = empty(boxes, {n}, ScalarType::Double);
  weight_kernel<T><<<blocks_for(n), kThreads, 0, stream>>>(
      data<T>(boxes), data<T>(scores), data<int64_t>(models), settings.weights, settings.num_models,
      n, score_threshold, mutable_data<double>(weighted), mutable_data<double>(fused_scores));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor order = group_positions(sort_descending(weighted).second, labels, images, stream);
  const Tensor clusters =
      empty(boxes, {n * static_cast<int64_t>(sizeof(Cluster))}, ScalarType::Byte);
  const Tensor first = empty(boxes, {n}, ScalarType::Long);
  const Tensor positions = empty(boxes, {n}, ScalarType::Long);
  const FusionProblem<T> problem{{data<int64_t>(order), id_data(labels), id_data(images), n},
                                 data<T>(boxes),
                                 data<int64_t>(models),
                                 data<double>(weighted),
                                 settings,
                                 static_cast<Cluster*>(clusters.mutable_data_ptr()),
                                 mutable_data<int64_t>(first),
                                 mutable_data<double>(fused_scores),
                                 mutable_data<int64_t>(positions)};
  fuse_kernel<T><<<problem.groups.blocks(), kGroupThreads, 0, stream>>>(problem);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const auto [sorted_scores, ranking] = sort_descending(fused_scores);
  const Tensor flags = empty(boxes, {n}, ScalarType::Bool);
  flag_kernel<<<blocks_for(n), kThreads, 0, stream>>>(data<double>(sorted_scores), n,
                                                      mutable_data<uint8_t>(flags));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor starts = masked_select(ranking, flags);
  const int64_t count = starts.size(0);
  Tensor out_boxes = empty(boxes, {count, 4}, boxes.scalar_type());
  Tensor out_scores = empty(boxes, {count}, boxes.scalar_type());
  if (count > 0) {
    write_kernel<T><<<blocks_for(count), kThreads, 0, stream>>>(data<int64_t>(starts), count,
                                                                problem, mutable_data<T>(out_boxes),
                                                                mutable_data<T>(out_scores));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const Tensor no_images = empty(boxes, {0}, ScalarType::Long);
  return {out_boxes, out_scores, take<int64_t>(*labels, starts, stream),
          images ? take<int64_t>(*images, starts, stream) : no_images};
}

Outputs weighted_boxes_fusion_cuda(const Tensor& boxes_in, const Tensor& scores_in,
                                   const Tensor& labels_in, const Tensor& models_in,
                                   const Tensor& weights_in, std::optional<Tensor> images_in,
                                   double iou_threshold, double score_threshold, int64_t confidence,
                                   bool allows_overflow) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  check_box_count(boxes_in);
  check_weights(weights_in);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const Tensor weights = as_contiguous(weights_in);
  const int64_t n = boxes.size(0);
  const auto labels = contiguous_ids(labels_in, n), models = contiguous_ids(models_in, n);
  const auto images = contiguous_ids(images_in, n);
  const Tensor no_ids = empty(boxes, {0}, ScalarType::Long);
  if (n == 0) {
    const ScalarType type = boxes.scalar_type();
    return {empty(boxes, {0, 4}, type), empty(boxes, {0}, type), no_ids, no_ids};
  }
  const FusionSettings settings =
      make_settings(weights, iou_threshold, confidence, allows_overflow);
  Outputs out{boxes, scores, no_ids, no_ids};
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    out = fuse<decltype(zero)>(boxes, scores, labels, *models, images, score_threshold, settings);
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("weighted_boxes_fusion", TORCH_BOX(&cvlib::weighted_boxes_fusion_cuda));
}
