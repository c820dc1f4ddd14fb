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
constexpr int64_t kMaxGrid = 65535;  // limit of a grid's y and z

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline unsigned blocks_for(int64_t items, int64_t per_block = kThreads) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

struct MatrixLaunch {
  dim3 grid, block;
};

// Threads along the columns of an (n, m) matrix, each with `rows_per_thread` rows.
inline MatrixLaunch launch_over_matrix(int64_t n, int64_t m, int64_t rows_per_thread) {
  unsigned columns = kWarp;
  while (columns < kThreads && columns < m) columns *= 2;
  const unsigned rows = kThreads / columns;
  const int64_t row_blocks = blocks_for(n, rows * rows_per_thread);
  return {dim3(blocks_for(m, columns),
               static_cast<unsigned>(row_blocks < kMaxGrid ? row_blocks : kMaxGrid)),
          dim3(columns, rows)};
}

using torch::stable::accelerator::DeviceGuard;

}  // namespace cvlib
