// ATen operators without a function in the stable ABI, called through the dispatcher.
#pragma once

#include <array>
#include <utility>

#include "torch_compat.h"

namespace cvlib {

// Values and indices along the last dimension, highest first, equal values in input order. NaN
// comes first, as in torch.sort.
inline std::pair<Tensor, Tensor> sort_descending(const Tensor& values) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{-1}), torch::stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// Waits for the device: the only host synchronisation of operators with data-dependent length.
inline Tensor masked_select(const Tensor& values, const Tensor& mask) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(values),
                                    torch::stable::detail::from(mask)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::masked_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace cvlib
