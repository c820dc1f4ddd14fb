// Threshold, selection and suppression per class for a batch of images, on CUDA.
//
// The scores of each image are sorted. Then one block per image visits its candidates in tiles,
// best first, as the CPU kernel does: each thread compares one candidate with the boxes kept so
// far, and the tile is then resolved in order, one kept box after the other, until the image has
// max_output boxes. Work: candidates x kept boxes; memory: the sorted scores and their indices. No
// host synchronisation.
#include <tuple>

#include "../box_math.h"
#include "../checks.h"
#include "../cuda_aten.cuh"
#include "../cuda_launch.cuh"
#include "arguments.h"

namespace cvlib {
namespace {

template <class T>
struct Problem {
  const T* boxes;  // (B, N, 4) or (B, N, K, 4)
  bool per_class;
  const T* scores;       // (B, N * K), sorted; NaN first
  const int64_t* order;  // (B, N * K): index of each sorted score
  int64_t rows, classes;
  T score_threshold, iou_threshold;
  int64_t max_candidates, max_output;
  int32_t* visited;    // (B, K), zeros
  Box<T>* kept_boxes;  // (B, D)
  int64_t* out_rows;   // (B, D)
  int64_t* out_labels;
  int64_t* counts;  // (B)
};

template <class T>
struct Tile {
  Box<T> boxes[kThreads];
  int64_t rows[kThreads];
  int64_t labels[kThreads];  // -1 where there is no candidate
  uint8_t alive[kThreads];
};

// Number of candidates with this label in earlier threads of the tile.
template <class T>
__device__ int64_t count_before(const Tile<T>& tile, int64_t label) {
  int64_t before = 0;
  for (int other = 0; other < threadIdx.x; ++other) before += tile.labels[other] == label;
  return before;
}

template <class T>
__device__ bool overlaps_kept(const Problem<T>& p, int64_t image, int64_t kept, const Box<T>& box,
                              int64_t label) {
  const int64_t base = image * p.max_output;
  const T box_area = area(box);
  for (int64_t k = 0; k < kept; ++k) {
    if (p.out_labels[base + k] != label) continue;
    const Box<T> other = p.kept_boxes[base + k];
    if (overlaps(other, area(other), box, box_area, p.iou_threshold)) return true;
  }
  return false;
}

// Fills the tile with the candidates from `begin` on; true when no others follow.
template <class T>
__device__ bool load_tile(const Problem<T>& p, int64_t image, int64_t begin, int64_t kept,
                          Tile<T>& tile) {
  const int64_t total = p.rows * p.classes, base = image * total;
  const int64_t position = begin + threadIdx.x;
  const int t = threadIdx.x;
  const bool exists = position < total;
  const T score = exists ? p.scores[base + position] : T(0);
  const bool reaches = exists && score >= p.score_threshold;
  const bool is_end = !exists || (!reaches && !is_nan(score));
  tile.labels[t] = -1;
  tile.alive[t] = 0;
  if (reaches) {
    const int64_t flat = p.order[base + position], row = flat / p.classes;
    const int64_t at = p.per_class ? base + flat : image * p.rows + row;
    tile.boxes[t] = read_box(p.boxes + 4 * at);
    tile.rows[t] = row;
    if (!has_nan(tile.boxes[t])) tile.labels[t] = flat % p.classes;
  }
  __syncthreads();
  const int64_t label = tile.labels[t];
  int32_t* visited = p.visited + image * p.classes;
  int64_t rank = 0;
  if (label >= 0) rank = visited[label] + count_before(tile, label);
  __syncthreads();
  if (label >= 0) atomicAdd(&visited[label], 1);  // integers: the order of additions is free
  if (label >= 0 && rank < p.max_candidates) {
    tile.alive[t] = !overlaps_kept(p, image, kept, tile.boxes[t], label);
  }
  return __syncthreads_or(is_end);
}

// Keeps candidates of the tile in order; returns the number of kept boxes so far.
template <class T>
__device__ int64_t keep_candidates(const Problem<T>& p, int64_t image, int64_t kept,
                                   Tile<T>& tile) {
  const int t = threadIdx.x;
  for (int i = 0; i < kThreads && kept < p.max_output; ++i) {
    if (!tile.alive[i]) continue;
    const Box<T> box = tile.boxes[i];
    const int64_t label = tile.labels[i];
    if (t == i) {
      p.kept_boxes[image * p.max_output + kept] = box;
      p.out_rows[image * p.max_output + kept] = tile.rows[i];
      p.out_labels[image * p.max_output + kept] = label;
    }
    if (t > i && tile.alive[t] && tile.labels[t] == label &&
        overlaps(box, area(box), tile.boxes[t], area(tile.boxes[t]), p.iou_threshold)) {
      tile.alive[t] = 0;
    }
    ++kept;
    __syncthreads();
  }
  __syncthreads();
  return kept;
}

template <class T>
__global__ void multiclass_kernel(Problem<T> p) {
  __shared__ Tile<T> tile;
  const int64_t image = blockIdx.x;
  int64_t kept = 0;
  bool is_last = p.rows * p.classes == 0;
  for (int64_t begin = 0; !is_last && kept < p.max_output; begin += kThreads) {
    is_last = load_tile(p, image, begin, kept, tile);
    kept = keep_candidates(p, image, kept, tile);
  }
  for (int64_t k = kept + threadIdx.x; k < p.max_output; k += kThreads) {
    p.out_rows[image * p.max_output + k] = -1;
    p.out_labels[image * p.max_output + k] = -1;
  }
  if (threadIdx.x == 0) p.counts[image] = kept;
}

std::tuple<Tensor, Tensor, Tensor> multiclass_nms_cuda(const Tensor& boxes_in,
                                                       const Tensor& scores_in,
                                                       double score_threshold, double iou_threshold,
                                                       int64_t max_candidates, int64_t max_output) {
  check_multiclass(boxes_in, scores_in, max_output);
  const int64_t batch = scores_in.size(0), n = scores_in.size(1), classes = scores_in.size(2);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  Tensor rows = empty(boxes, {batch, max_output}, ScalarType::Long);
  Tensor labels = empty(boxes, {batch, max_output}, ScalarType::Long);
  Tensor counts = empty(boxes, {batch}, ScalarType::Long);
  if (batch == 0) return {rows, labels, counts};
  const Tensor flat = torch::stable::view(scores, {batch, n * classes});
  const auto [sorted, order] = sort_descending(flat);
  const Tensor visited = zeros(boxes, {batch, classes}, ScalarType::Int);
  const Tensor kept_boxes = empty(boxes, {batch, max_output, 4}, boxes.scalar_type());
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Problem<T> problem{data<T>(boxes),
                             boxes.dim() == 4,
                             data<T>(sorted),
                             data<int64_t>(order),
                             n,
                             classes,
                             round_up<T>(score_threshold),
                             round_down<T>(iou_threshold),
                             max_candidates < 0 ? n : max_candidates,
                             max_output,
                             mutable_data<int32_t>(visited),
                             static_cast<Box<T>*>(kept_boxes.mutable_data_ptr()),
                             mutable_data<int64_t>(rows),
                             mutable_data<int64_t>(labels),
                             mutable_data<int64_t>(counts)};
    multiclass_kernel<T>
        <<<static_cast<unsigned>(batch), kThreads, 0, current_stream(boxes)>>>(problem);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {rows, labels, counts};
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("multiclass_nms", TORCH_BOX(&cvlib::multiclass_nms_cuda));
}
