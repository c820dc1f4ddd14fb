// Pairwise IoU of N and M masks on CUDA.
//
// A warp packs 32 pixels into a word with one vote. Then one block per mask counts its bits, and
// one block per pair counts the common bits. The packed masks are an eighth of the input and are
// read from the L2 cache for every pair.
#include <optional>

#include "../cuda_block.cuh"
#include "../cuda_launch.cuh"
#include "checks.h"
#include "mask_iou.h"
#include "planes.h"

namespace cvlib {
namespace {

constexpr int64_t kMaxBlocks = 1 << 20;

struct PackedMasks {
  Tensor words;  // int32, (count, length)
  Tensor areas;  // int64, (count)
  int64_t count, length;
};

__global__ void pack_kernel(const uint8_t* __restrict__ pixels, int64_t stride, int64_t size,
                            int64_t count, int64_t length, uint32_t* __restrict__ words) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t index = first; index < count * length; index += step) {
    const int64_t n = index / length, pixel = (index - n * length) * kWarp + lane;
    const bool is_set = pixel < size && pixels[n * stride + pixel] != 0;
    const unsigned word = __ballot_sync(kFullWarp, is_set);
    if (lane == 0) words[index] = word;
  }
}

__device__ int64_t count_shared(const uint32_t* __restrict__ a, const uint32_t* __restrict__ b,
                                int64_t length) {
  int64_t own = 0;
  for (int64_t w = threadIdx.x; w < length; w += kThreads) own += __popc(a[w] & b[w]);
  return tree_sum(own);
}

__global__ void area_kernel(const uint32_t* __restrict__ words, int64_t length,
                            int64_t* __restrict__ areas) {
  const uint32_t* own = words + blockIdx.x * length;
  const int64_t area = count_shared(own, own, length);
  if (threadIdx.x == 0) areas[blockIdx.x] = area;
}

__global__ void pair_kernel(const uint32_t* __restrict__ words1,
                            const uint32_t* __restrict__ words2, const int64_t* __restrict__ areas1,
                            const int64_t* __restrict__ areas2, const bool* __restrict__ is_crowd,
                            int64_t n, int64_t m, int64_t length, float* __restrict__ out) {
  const int64_t j = blockIdx.x;
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    const int64_t shared = count_shared(words1 + i * length, words2 + j * length, length);
    if (threadIdx.x != 0) continue;
    out[i * m + j] =
        iou_of_counts(shared, areas1[i], areas2[j], is_crowd != nullptr && is_crowd[j]);
  }
}

PackedMasks pack(const Planes& planes) {
  PackedMasks packed{Tensor(), Tensor(), planes.count, (planes.size() + kWarp - 1) / kWarp};
  packed.words = empty(planes.tensor, {packed.count, packed.length}, ScalarType::Int);
  packed.areas = empty(planes.tensor, {packed.count}, ScalarType::Long);
  uint32_t* words = static_cast<uint32_t*>(packed.words.mutable_data_ptr());
  const cudaStream_t stream = current_stream(planes.tensor);
  const int64_t total = packed.count * packed.length;
  if (total > 0) {
    const int64_t blocks = (total + kThreads / kWarp - 1) / (kThreads / kWarp);
    pack_kernel<<<static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks), kThreads, 0,
                  stream>>>(data<uint8_t>(planes.tensor), planes.stride, planes.size(),
                            packed.count, packed.length, words);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  area_kernel<<<static_cast<unsigned>(packed.count), kThreads, 0, stream>>>(
      words, packed.length, mutable_data<int64_t>(packed.areas));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return packed;
}

Tensor mask_iou_cuda(const Tensor& masks1, const Tensor& masks2,
                     const std::optional<Tensor>& is_crowd) {
  check_mask_pairs(masks1, masks2, is_crowd);
  const DeviceGuard guard(masks1.get_device_index());
  const Planes first = as_planes(masks1), second = as_planes(masks2);
  Tensor out = empty(masks1, {first.count, second.count}, ScalarType::Float);
  if (first.count == 0 || second.count == 0) return out;
  const Tensor flags = is_crowd ? as_contiguous(*is_crowd) : Tensor();
  const PackedMasks a = pack(first), b = pack(second);
  const dim3 grid(static_cast<unsigned>(b.count),
                  static_cast<unsigned>(a.count < kMaxGrid ? a.count : kMaxGrid));
  pair_kernel<<<grid, kThreads, 0, current_stream(masks1)>>>(
      data<uint32_t>(a.words), data<uint32_t>(b.words), data<int64_t>(a.areas),
      data<int64_t>(b.areas), is_crowd ? data<bool>(flags) : nullptr, a.count, b.count, a.length,
      mutable_data<float>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CUDA, m) { m.impl("mask_iou", TORCH_BOX(&cvlib::mask_iou_cuda)); }
