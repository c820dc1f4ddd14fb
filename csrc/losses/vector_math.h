// exp, log and log1p as branch-free arithmetic, which compilers vectorise. No torch include.
//
// Only additions, multiplications, one division and bit operations, none of them contracted, so
// that every instruction set and CUDA give equal bits. Measured against higher precision, relative
// errors are below 2e-7 in float and 5e-16 in double. NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "../box_math.h"
#include "../host_device.h"

namespace cvlib {

template <class T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kMax = 3.4028234663852886e38f;
  static constexpr float kMin = 1.1754943508222875e-38f;  // smallest normal number
  static constexpr float kLeastExponent = -87.33f;        // exp of less is 0
  static constexpr float kLargestExponent = 88.0f;        // exp of more is infinite
  static constexpr float kLogTwoHigh = 0.693359375f;      // times an integer it is exact
  static constexpr float kLogTwoLow = -2.1219444005469057e-4f;
};

template <>
struct FloatFormat<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kMax = 1.7976931348623157e308;
  static constexpr double kMin = 2.2250738585072014e-308;
  static constexpr double kLeastExponent = -708.39;
  static constexpr double kLargestExponent = 709.0;
  static constexpr double kLogTwoHigh = 6.93147180369123816490e-1;
  static constexpr double kLogTwoLow = 1.90821492927058770002e-10;
};

// (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2.
CVLIB_HOST_DEVICE float exp_tail(float r) {
  float sum = 1.39261835877134945e-3f;
  sum = sum * r + 8.36317905272257737e-3f;
  sum = sum * r + 4.16665546172045742e-2f;
  sum = sum * r + 1.66665769896987757e-1f;
  return sum * r + 0.5f;
}

CVLIB_HOST_DEVICE double exp_tail(double r) {
  double sum = 2.09146869680868772e-9;
  sum = sum * r + 2.51052170047207452e-8;
  sum = sum * r + 2.75572736431102953e-7;
  sum = sum * r + 2.75572554002064244e-6;
  sum = sum * r + 2.48015873255477412e-5;
  sum = sum * r + 1.98412698748206253e-4;
  sum = sum * r + 1.38888888888837483e-3;
  sum = sum * r + 8.33333333332613513e-3;
  sum = sum * r + 4.16666666666666698e-2;
  sum = sum * r + 1.66666666666666710e-1;
  return sum * r + 0.5;
}

// (2 atanh(s) - 2 s) / (s z) with z = s^2, for z <= 1/9.
CVLIB_HOST_DEVICE float atanh_tail(float z) {
  float sum = 2.68514980228371518e-1f;
  sum = sum * z + 2.82366198053104814e-1f;
  sum = sum * z + 4.00075606449112058e-1f;
  return sum * z + 6.66666403366992398e-1f;
}

CVLIB_HOST_DEVICE double atanh_tail(double z) {
  double sum = 1.61640456119435322e-1;
  sum = sum * z + 8.80073848614467388e-2;
  sum = sum * z + 1.20010728095907125e-1;
  sum = sum * z + 1.33141442096549362e-1;
  sum = sum * z + 1.53855700649586231e-1;
  sum = sum * z + 1.81817894361328582e-1;
  sum = sum * z + 2.2222222717427863e-1;
  sum = sum * z + 2.85714285671087572e-1;
  sum = sum * z + 4.00000000000145827e-1;
  return sum * z + 6.66666666666666586e-1;
}

// exp(x); 0 instead of a denormal number, and infinity above kLargestExponent.
template <class T>
CVLIB_HOST_DEVICE T vector_exp(T x) {
  using Format = FloatFormat<T>;
  using Bits = typename Format::Bits;
  // Adding this to a small number rounds it to an integer in the low bits.
  constexpr T kRounder = T(Bits(3) << (Format::kMantissa - 1));
  constexpr Bits kRounderBits = std::bit_cast<Bits>(kRounder), kOneBits = std::bit_cast<Bits>(T(1));
  const T inside = smaller(larger(x, Format::kLeastExponent), Format::kLargestExponent);
  const T shifted = inside * T(1.4426950408889634) + kRounder;
  const T n = shifted - kRounder;
  const T r = (inside - n * Format::kLogTwoHigh) - n * Format::kLogTwoLow;
  const T value = r * r * exp_tail(r) + r + T(1);
  const Bits power = std::bit_cast<Bits>(shifted) - kRounderBits;
  const T scaled = value * std::bit_cast<T>((power << Format::kMantissa) + kOneBits);
  const T lower = x < Format::kLeastExponent ? T(0) : scaled;
  return x > Format::kLargestExponent ? T(INFINITY) : lower;
}

// 2 atanh(f / (2 + f)), which is log(1 + f).
template <class T>
CVLIB_HOST_DEVICE T log_of_one_plus(T f) {
  const T s = f / (T(2) + f);
  const T z = s * s;
  return T(2) * s + s * z * atanh_tail(z);
}

// log(1 + x) for 0 <= x <= 1.
template <class T>
CVLIB_HOST_DEVICE T vector_log1p(T x) {
  return log_of_one_plus(x);
}

// log(x) for positive normal or infinite x.
template <class T>
CVLIB_HOST_DEVICE T vector_log(T x) {
  using Format = FloatFormat<T>;
  using Bits = typename Format::Bits;
  constexpr Bits kOneBits = std::bit_cast<Bits>(T(1));
  constexpr Bits kRootBits = std::bit_cast<Bits>(T(0.70710678118654752));
  constexpr T kWhole = T(Bits(1) << Format::kMantissa);  // its low bits hold an integer
  constexpr T kBias = T(kOneBits >> Format::kMantissa);
  // x = m 2^n with m from sqrt(1/2) to sqrt(2).
  const Bits shifted = std::bit_cast<Bits>(x) - kRootBits + kOneBits;
  const Bits exponent = shifted >> Format::kMantissa;
  const T n = std::bit_cast<T>(exponent + std::bit_cast<Bits>(kWhole)) - (kWhole + kBias);
  const Bits digits = shifted & ((Bits(1) << Format::kMantissa) - 1);
  const T m = std::bit_cast<T>(digits + kRootBits);
  const T value = n * Format::kLogTwoHigh + (n * Format::kLogTwoLow + log_of_one_plus(m - T(1)));
  return x <= Format::kMax ? value : x;
}

}  // namespace cvlib
