// ATen operators that the stable ABI has no function for, called through the dispatcher.
#pragma once

#include <array>
#include <utility>

#include "torch_compat.h"

namespace cvlib {

// Values and indices, highest first, equal values in input order, along the last dimension. NaN
// comes first, as torch.sort has it.
inline std::pair<Tensor, Tensor> sort_descending(const Tensor& values) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{-1}), torch::stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// The one host synchronisation of an operator whose length depends on data.
inline Tensor masked_select(const Tensor& values, const Tensor& mask) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(values),
                                    torch::stable::detail::from(mask)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::masked_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace cvlib
