// exp of numbers up to 0, with equal bits on every device: the exp of libraries differs in the last
// bit, and soft_nms selects by products of such factors. It consists of additions and
// multiplications in a fixed order, each rounded once, which compilers also vectorise.
//
// exp(x) = 2^k * exp(r), with k the integer nearest to x / ln 2 and |r| <= ln(2) / 2; exp(r) is a
// Taylor series. Errors are below 2 units in the last place; exp(0) = 1; results that would be
// denormal are 0.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "../host_device.h"

namespace cvlib {

template <class T>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
  using Bits = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 8;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLowest = -87.0f;
  // ln 2 as a sum of two numbers; k times the first is exact.
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
};

template <>
struct ExponentialConstants<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 14;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLowest = -708.0;
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
};

template <class T>
CVLIB_HOST_DEVICE T exp_of_nonpositive(T x) {
  using C = ExponentialConstants<T>;
  using Bits = typename C::Bits;
  const T inside = x > C::kLowest ? x : C::kLowest;
  const T shifted = inside * T(1.44269504088896340736) + C::kRound;
  const T k = shifted - C::kRound;
  const T r = (inside - k * C::kLn2High) - k * C::kLn2Low;
  T series = T(1);
  for (int i = C::kTerms - 1; i > 0; --i) series = series * r * (T(1) / T(i)) + T(1);
  // The low bits of `shifted` hold k.
  const Bits power = (std::bit_cast<Bits>(shifted) + Bits(C::kBias)) << C::kMantissa;
  return x > C::kLowest ? series * std::bit_cast<T>(power) : T(0);
}

}  // namespace cvlib
