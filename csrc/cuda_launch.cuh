// Streams, devices and launch sizes of the CUDA kernels.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "torch_compat.h"

namespace cvlib {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kMaxGrid = 65535;  // of a grid's y and z

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline unsigned blocks_for(int64_t items, int64_t per_block = kThreads) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

using torch::stable::accelerator::DeviceGuard;

}  // namespace cvlib
