// The smallest box around each mask, on CUDA.
//
// A block takes a band of one mask, 16 bytes per thread at a time, skips zeros, and joins the
// extents of its threads as a tree. A second kernel joins the bands of each mask. Every pixel is
// read once.
#include "../cuda_launch.cuh"
#include "checks.h"
#include "extent.h"
#include "planes.h"

namespace cvlib {
namespace {

constexpr int kVectorBytes = 16;
constexpr int64_t kVectorsPerBand = int64_t{kThreads} * 16;

// Joins the extents of all threads of a block; thread 0 has the result.
__device__ MaskExtent join_block(MaskExtent own) {
  __shared__ MaskExtent extents[kThreads];
  extents[threadIdx.x] = own;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) {
      extents[threadIdx.x] = join(extents[threadIdx.x], extents[threadIdx.x + width]);
    }
  }
  return extents[0];
}

template <class U>
struct PlanesView {
  const U* values;
  int64_t count, stride, size, width;
  bool is_aligned;  // every mask starts at a multiple of 16 bytes
};

template <class U>
__global__ void band_kernel(PlanesView<U> planes, U bits, int64_t bands,
                            MaskExtent* __restrict__ extents) {
  constexpr int kElements = kVectorBytes / sizeof(U);
  const int64_t first = blockIdx.x * kVectorsPerBand, stop = first + kVectorsPerBand;
  for (int64_t n = blockIdx.y; n < planes.count; n += gridDim.y) {
    const U* mask = planes.values + n * planes.stride;
    MaskExtent own = empty_extent();
    for (int64_t vector = first + threadIdx.x; vector < stop; vector += kThreads) {
      const int64_t begin = vector * kElements;
      if (begin >= planes.size) break;
      const int64_t end = begin + kElements < planes.size ? begin + kElements : planes.size;
      if (planes.is_aligned && begin + kElements <= planes.size) {
        const uint4 all = *reinterpret_cast<const uint4*>(mask + begin);
        if ((all.x | all.y | all.z | all.w) == 0) continue;
      }
      int64_t y = begin / planes.width, x = begin - y * planes.width;
      for (int64_t i = begin; i < end; ++i) {
        if ((mask[i] & bits) != 0) own = join(own, {x, y, x, y});
        if (++x == planes.width) x = 0, ++y;
      }
    }
    __syncthreads();
    const MaskExtent joined = join_block(own);
    if (threadIdx.x == 0) extents[n * bands + blockIdx.x] = joined;
  }
}

__global__ void join_kernel(const MaskExtent* __restrict__ extents, int64_t bands,
                            float* __restrict__ boxes) {
  const int64_t n = blockIdx.x;
  MaskExtent own = empty_extent();
  for (int64_t band = threadIdx.x; band < bands; band += kThreads) {
    own = join(own, extents[n * bands + band]);
  }
  const MaskExtent joined = join_block(own);
  if (threadIdx.x == 0) write_box(to_box(joined), boxes + 4 * n);
}

Tensor masks_to_boxes_cuda(const Tensor& masks) {
  check_masks(masks);
  const DeviceGuard guard(masks.get_device_index());
  const Planes planes = as_planes(masks);
  if (planes.count == 0 || planes.size() == 0) {
    return zeros(masks, {planes.count, 4}, ScalarType::Float);
  }
  Tensor out = empty(masks, {planes.count, 4}, ScalarType::Float);
  dispatch_bits(masks.scalar_type(), [&](auto zero, auto bits) {
    using U = decltype(zero);
    const U* values = data<U>(planes.tensor);
    const bool is_aligned = reinterpret_cast<uintptr_t>(values) % kVectorBytes == 0 &&
                            planes.stride * sizeof(U) % kVectorBytes == 0;
    const PlanesView<U> view{values,        planes.count, planes.stride,
                             planes.size(), planes.width, is_aligned};
    const int64_t per_band = kVectorsPerBand * kVectorBytes / sizeof(U);
    const int64_t bands = (planes.size() + per_band - 1) / per_band;
    Tensor extents = empty(masks, {planes.count, bands, 4}, ScalarType::Long);
    MaskExtent* partial = static_cast<MaskExtent*>(extents.mutable_data_ptr());
    const cudaStream_t stream = current_stream(masks);
    const unsigned rows = static_cast<unsigned>(planes.count < kMaxGrid ? planes.count : kMaxGrid);
    band_kernel<U><<<dim3(static_cast<unsigned>(bands), rows), kThreads, 0, stream>>>(
        view, bits, bands, partial);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    join_kernel<<<static_cast<unsigned>(planes.count), kThreads, 0, stream>>>(
        partial, bands, mutable_data<float>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) {
  m.impl("masks_to_boxes", TORCH_BOX(&cvlib::masks_to_boxes_cuda));
}
