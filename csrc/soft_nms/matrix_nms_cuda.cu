// Matrix non-maximum suppression on CUDA: a thread for each box, in the order of the scores.
//
// Two passes over the better boxes, tile by tile through shared memory: the largest IoU with a
// better box, then the smallest quotient (formula: matrix_nms_core.h). Work: N^2 / 2 pairs; memory
// is linear; no host synchronisation.
#include <optional>

#include "../box_math.h"
#include "../checks.h"
#include "../cuda_aten.cuh"
#include "../cuda_launch.cuh"
#include "../nms/arguments.h"
#include "exponential.h"

namespace cvlib {
namespace {

template <class T>
struct MatrixProblem {
  const T* boxes;         // by input index
  const T* scores;        // by input index
  const int64_t* labels;  // by input index, or null
  const int64_t* images;
  const int64_t* order;  // input index of each rank
  int64_t n;
  T sigma;

  // A NaN score makes the box empty, so that it lowers nothing and is not lowered; with a NaN
  // coordinate the IoU is 0 anyway.
  __device__ Box<T> box(int64_t i) const {
    return is_nan(scores[i]) ? Box<T>{0, 0, 0, 0} : read_box(boxes + 4 * i);
  }
};

template <class T>
struct MatrixTile {
  Box<T> boxes[kThreads];
  int64_t labels[kThreads], images[kThreads];
  T largest[kThreads];
};

template <class T>
__device__ void load(const MatrixProblem<T>& p, int64_t rank, const T* largest,
                     MatrixTile<T>& tile) {
  const int64_t i = p.order[rank];
  tile.boxes[threadIdx.x] = p.box(i);
  tile.labels[threadIdx.x] = p.labels == nullptr ? 0 : p.labels[i];
  tile.images[threadIdx.x] = p.images == nullptr ? 0 : p.images[i];
  tile.largest[threadIdx.x] = largest == nullptr ? T(0) : largest[rank];
}

// Calls function(IoU, largest IoU of the better box) for each better box of the group. All threads
// of the block must take part, including those beyond the last box.
template <class T, class Function>
__device__ void over_better(const MatrixProblem<T>& p, const T* largest, MatrixTile<T>& tile,
                            const Function& function) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads, rank = first + threadIdx.x;
  const int64_t i = p.order[rank < p.n ? rank : p.n - 1];
  const Box<T> box = p.box(i);
  const T box_area = area(box);
  const int64_t label = p.labels == nullptr ? 0 : p.labels[i];
  const int64_t image = p.images == nullptr ? 0 : p.images[i];
  for (int64_t base = 0; base <= first; base += kThreads) {
    __syncthreads();
    if (base + threadIdx.x < p.n) load(p, base + threadIdx.x, largest, tile);
    __syncthreads();
    const int64_t better = rank - base < kThreads ? rank - base : kThreads;
    for (int64_t k = 0; k < better && base + k < p.n; ++k) {
      if (tile.labels[k] != label || tile.images[k] != image) continue;
      const Box<T> other = tile.boxes[k];
      function(iou(other, area(other), box, box_area), tile.largest[k]);
    }
  }
}

template <class T>
__global__ void largest_kernel(MatrixProblem<T> p, T* __restrict__ largest) {
  __shared__ MatrixTile<T> tile;
  T own = T(0);
  over_better(p, static_cast<const T*>(nullptr), tile,
              [&](T overlap, T) { own = larger(own, overlap); });
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (rank < p.n) largest[rank] = own;
}

template <class T, bool kGaussian>
__global__ void factor_kernel(MatrixProblem<T> p, const T* __restrict__ largest,
                              T* __restrict__ factors) {
  __shared__ MatrixTile<T> tile;
  T excess = T(0), least = T(1);
  over_better(p, largest, tile, [&](T overlap, T better_largest) {
    if constexpr (kGaussian) {
      excess = larger(excess, overlap * overlap - better_largest * better_largest);
    } else {
      least = smaller(least, (T(1) - overlap) / (T(1) - better_largest));
    }
  });
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (rank >= p.n) return;
  factors[p.order[rank]] = kGaussian ? exp_of_nonpositive(-(p.sigma * excess)) : least;
}

Tensor matrix_nms_cuda(const Tensor& boxes_in, const Tensor& scores_in,
                       std::optional<Tensor> labels_in, std::optional<Tensor> images_in,
                       bool gaussian, double sigma) {
  check_boxes(boxes_in, 2);
  check_scores(scores_in, boxes_in);
  const DeviceGuard guard(boxes_in.get_device_index());
  const Tensor boxes = as_real(boxes_in), scores = as_real(scores_in);
  const int64_t n = boxes.size(0);
  const auto labels = contiguous_ids(labels_in, n), images = contiguous_ids(images_in, n);
  Tensor out = empty(boxes, {n}, boxes.scalar_type());
  if (n == 0) return out;
  const Tensor order = sort_descending(scores).second;
  const Tensor largest = empty(boxes, {n}, boxes.scalar_type());
  const cudaStream_t stream = current_stream(boxes);
  dispatch_floating(boxes.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const MatrixProblem<T> problem{data<T>(boxes),       data<T>(scores),      id_data(labels),
                                   id_data(images),      data<int64_t>(order), n,
                                   static_cast<T>(sigma)};
    largest_kernel<T><<<blocks_for(n), kThreads, 0, stream>>>(problem, mutable_data<T>(largest));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const auto kernel = gaussian ? factor_kernel<T, true> : factor_kernel<T, false>;
    kernel<<<blocks_for(n), kThreads, 0, stream>>>(problem, data<T>(largest), mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("matrix_nms", TORCH_BOX(&cvlib::matrix_nms_cuda));
}
