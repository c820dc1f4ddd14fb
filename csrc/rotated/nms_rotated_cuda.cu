// Non-maximum suppression of rotated boxes on CUDA.
//
// Sort, gather, then tiles of kTile boxes, best first. `resolve_tile` decides inside one tile: all
// pairs in parallel into a bit mask in shared memory, then one warp walks the boxes in order.
// `suppress_later` drops the boxes behind the tile that overlap one it kept, all in parallel. Most
// pairs end at the cheap bounds of `suppresses`. Work: kept x N pairs; memory: linear in N; one
// host synchronisation, for the length of the result.
#include <optional>

#include "../cuda_aten.cuh"
#include "../nms/arguments.h"
#include "prepare_rotated.cuh"
#include "rotated_checks.h"

namespace cvlib {
namespace {

constexpr int kTile = 256;
constexpr int kWords = kTile / 32;

template <class T>
struct RotatedProblem {
  const RotatedBox* boxes;  // best first
  const int64_t* labels;    // or null: boxes of different labels ignore each other
  const int64_t* images;    // as labels
  uint8_t* removed;         // in: 1 for boxes that are no candidates (NaN)
  uint8_t* keep;            // out
  int32_t* tile_kept;       // (kTile): boxes kept in the current tile
  int32_t* tile_count;      // how many
  int64_t* total;           // kept so far
  int64_t n;
  int64_t max_total;  // stop when this many are kept
  double surely_below;
  T threshold;
};

template <class T>
__global__ void gather_kernel(const T* __restrict__ boxes, const T* __restrict__ scores,
                              const int64_t* __restrict__ labels,
                              const int64_t* __restrict__ images, const int64_t* __restrict__ order,
                              int64_t n, RotatedBox* __restrict__ out_boxes,
                              int64_t* __restrict__ out_labels, int64_t* __restrict__ out_images,
                              uint8_t* __restrict__ removed) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank >= n) return;
  const int64_t i = order[rank];
  const T* box = boxes + 5 * i;
  out_boxes[rank] = read_rotated_box(box);
  removed[rank] = is_nan(box[0]) || is_nan(box[1]) || is_nan(box[2]) || is_nan(box[3]) ||
                  is_nan(box[4]) || is_nan(scores[i]);
  if (labels != nullptr) out_labels[rank] = labels[i];
  if (images != nullptr) out_images[rank] = images[i];
}

// The bounds leave out pairs whose IoU, as rotated_math.h computes it, is not above the threshold.
template <class T>
__device__ bool suppresses(const RotatedProblem<T>& p, int64_t i, int64_t j, const RotatedBox& a,
                           const RotatedBox& b) {
  if (!are_near(a, b)) return false;
  if (p.labels != nullptr && p.labels[i] != p.labels[j]) return false;
  if (p.images != nullptr && p.images[i] != p.images[j]) return false;
  const double most = largest_intersection(a, b);
  if (!(most > 0.0) || !(most > p.surely_below * (a.area + b.area - most))) return false;
  return overlaps(a, b, p.threshold);
}

template <class T>
__global__ void resolve_tile(RotatedProblem<T> p, int64_t begin) {
  __shared__ uint32_t mask[kTile][kWords];
  __shared__ RotatedBox boxes[kTile];
  __shared__ uint32_t dead[kWords];
  const int64_t left = p.n - begin;
  const int count = left < kTile ? static_cast<int>(left) : kTile;
  const int t = threadIdx.x;

  if (t < kWords) dead[t] = 0;
  if (t < count) boxes[t] = p.boxes[begin + t];
  __syncthreads();
  const bool is_dead = t >= count || p.removed[begin + t];
  if (is_dead) atomicOr(&dead[t / 32], 1u << (t % 32));
  for (int w = 0; w < kWords; ++w) {
    uint32_t bits = 0;
    for (int b = 0; b < 32 && !is_dead; ++b) {
      const int other = 32 * w + b;
      if (other > t && other < count &&
          suppresses(p, begin + t, begin + other, boxes[t], boxes[other])) {
        bits |= 1u << b;
      }
    }
    mask[t][w] = bits;
  }
  __syncthreads();
  if (t >= kWarp) return;

  uint32_t gone = t < kWords ? dead[t] : ~0u;  // lane w owns word w
  int64_t total = *p.total;
  int found = 0;
  for (int i = 0; i < count && total < p.max_total; ++i) {
    const uint32_t word = __shfl_sync(kFullWarp, gone, i / 32);
    if ((word >> (i % 32)) & 1u) continue;
    if (t < kWords) gone |= mask[i][t];
    if (t == 0) {
      p.keep[begin + i] = 1;
      p.tile_kept[found] = i;
    }
    ++found;
    ++total;
  }
  if (t == 0) {
    *p.tile_count = found;
    *p.total = total;
  }
}

template <class T>
__global__ void suppress_later(RotatedProblem<T> p, int64_t begin) {
  __shared__ RotatedBox kept[kTile];
  if (*p.total >= p.max_total) return;
  const int count = *p.tile_count;
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    kept[k] = p.boxes[begin + p.tile_kept[k]];
  }
  __syncthreads();
  const int64_t j = begin + kTile + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= p.n || p.removed[j]) return;
  const RotatedBox box = p.boxes[j];
  for (int k = 0; k < count; ++k) {
    if (suppresses(p, begin + p.tile_kept[k], j, kept[k], box)) {
      p.removed[j] = 1;
      return;
    }
  }
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

template <class T>
void launch_suppression(const RotatedProblem<T>& p, cudaStream_t stream) {
  for (int64_t begin = 0; begin < p.n; begin += kTile) {
    resolve_tile<T><<<1, kTile, 0, stream>>>(p, begin);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const int64_t later = p.n - begin - kTile;
    if (later <= 0) break;
    suppress_later<T><<<blocks_for(later), kThreads, 0, stream>>>(p, begin);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

template <class T>
Tensor keep_flags(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& labels,
                  const std::optional<Tensor>& images, const Tensor& order, double iou_threshold,
                  int64_t max_output, cudaStream_t stream) {
  const int64_t n = boxes.size(0);
  const Tensor sorted = empty(boxes, {n, kFieldsOfRotated}, ScalarType::Double);
  const Tensor removed = empty(boxes, {n}, ScalarType::Byte);
  const Tensor sorted_labels = empty(boxes, {labels ? n : 0}, ScalarType::Long);
  const Tensor sorted_images = empty(boxes, {images ? n : 0}, ScalarType::Long);
  const Tensor keep = zeros(boxes, {n}, ScalarType::Bool);
  const Tensor tile_kept = empty(boxes, {kTile}, ScalarType::Int);
  const Tensor tile_count = zeros(boxes, {1}, ScalarType::Int);
  const Tensor total = zeros(boxes, {1}, ScalarType::Long);
  RotatedProblem<T> p{};
  p.boxes = prepared(sorted);
  p.labels = labels ? data<int64_t>(sorted_labels) : nullptr;
  p.images = images ? data<int64_t>(sorted_images) : nullptr;
  p.removed = mutable_data<uint8_t>(removed);
  p.keep = static_cast<uint8_t*>(keep.mutable_data_ptr());
  p.tile_kept = mutable_data<int32_t>(tile_kept);
  p.tile_count = mutable_data<int32_t>(tile_count);
  p.total = mutable_data<int64_t>(total);
  p.n = n;
  p.max_total = images ? n : max_output;
  p.surely_below = surely_below(iou_threshold);
  p.threshold = round_down<T>(iou_threshold);
  gather_kernel<T><<<blocks_for(n), kThreads, 0, stream>>>(
      data<T>(boxes), data<T>(scores), pointer(labels), pointer(images), data<int64_t>(order), n,
      reinterpret_cast<RotatedBox*>(sorted.mutable_data_ptr()),
      mutable_data<int64_t>(sorted_labels), mutable_data<int64_t>(sorted_images), p.removed);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch_suppression(p, stream);
  if (!images || max_output >= n) return keep;
  const Tensor limited = empty(boxes, {n}, ScalarType::Bool);
  limit_kernel<<<blocks_for(n), kThreads, 0, stream>>>(
      p.keep, p.images, n, max_output, static_cast<uint8_t*>(limited.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return limited;
}

Tensor nms_rotated_cuda(const Tensor& boxes_in, const Tensor& scores_in,
                        std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                        double iou_threshold, int64_t max_output) {
  check_rotated_boxes(boxes_in);
  check_same_dtype(boxes_in, scores_in);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const int64_t n = boxes.size(0);
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == n,
                  "nms_rotated: expected a score per box");
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

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("nms_rotated", TORCH_BOX(&cvlib::nms_rotated_cuda));
}
