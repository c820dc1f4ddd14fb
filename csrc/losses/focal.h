// The focal loss of one logit and its derivative. Shared by CPU and CUDA. No torch include.
//
// With p = sigmoid(x) and a target t in [0, 1]: the cross-entropy of p and t, times a weight and
// times miss^gamma, where miss = p (1 - t) + (1 - p) t, which is |p - t| for t = 0 and t = 1. No
// differences of near numbers and no quotients that could be 0 / 0, so that every logit gives full
// precision.
#pragma once

#include "vector_math.h"

namespace cvlib {

constexpr int kAnyGamma = -1;  // gammas 0, 1 and 2 are known to the compiler

template <class T>
struct FocalSettings {
  T positive, negative;  // weights of target 1 and target 0
  T gamma;
};

// A negative alpha means no alpha: both weights are 1. `scale` multiplies both weights.
template <class T>
FocalSettings<T> focal_settings(double alpha, double gamma, double scale) {
  return {static_cast<T>(scale * (alpha < 0 ? 1.0 : alpha)),
          static_cast<T>(scale * (alpha < 0 ? 1.0 : 1.0 - alpha)), static_cast<T>(gamma)};
}

// Values of a logit and its target. The compiler drops those that an operator does not use.
template <class T>
struct FocalTerm {
  T miss;     // p (1 - t) + (1 - p) t
  T error;    // p - t
  T slope;    // derivative of miss
  T tail;     // log(1 + exp(-|x|)); the cross-entropy is tail + reached * reach
  T reach;    // |x|
  T reached;  // in [0, 1]
  T weight;
};

template <class T>
struct Sides {
  T p, n, tail;  // sigmoid(x), sigmoid(-x), log(1 + exp(-|x|))
};

template <class T>
CVLIB_HOST_DEVICE Sides<T> split(T x) {
  const T decay = vector_exp(-std::fabs(x));
  const T likely = T(1) / (T(1) + decay);
  const T unlikely = decay * likely;
  const bool positive = x >= T(0);
  return {positive ? likely : unlikely, positive ? unlikely : likely, vector_log1p(decay)};
}

// For a target of 0. A target of 1 takes -x instead of x, and the derivative changes its sign.
template <class T>
CVLIB_HOST_DEVICE FocalTerm<T> hard_term(T x, T weight) {
  const Sides<T> side = split(x);
  return {side.p, side.p, side.p * side.n, side.tail, std::fabs(x), x >= T(0) ? T(1) : T(0),
          weight};
}

template <class T>
CVLIB_HOST_DEVICE FocalTerm<T> soft_term(T x, T t, const FocalSettings<T>& settings) {
  const Sides<T> side = split(x);
  const T rest = T(1) - t;
  const T above = side.p * rest, below = side.n * t;
  return {above + below,
          above - below,
          side.p * side.n * (rest - t),
          side.tail,
          std::fabs(x),
          x >= T(0) ? rest : t,
          settings.positive * t + settings.negative * rest};
}

// miss^exponent. 0 is replaced by the smallest normal number, which has a logarithm.
template <class T>
CVLIB_HOST_DEVICE T power(T miss, T exponent) {
  return vector_exp(exponent * vector_log(larger(miss, FloatFormat<T>::kMin)));
}

template <int kGamma, class T>
CVLIB_HOST_DEVICE T focal_loss(const FocalTerm<T>& term, T gamma) {
  T factor = term.weight;
  if constexpr (kGamma == 1) factor *= term.miss;
  if constexpr (kGamma == 2) factor *= term.miss * term.miss;
  if constexpr (kGamma == kAnyGamma) factor *= power(term.miss, gamma);
  // An infinite logit of the right sign has no loss: 0 times infinity must be 0 here.
  const T share = factor * term.reached;
  return factor * term.tail + (share == T(0) ? T(0) : share * term.reach);
}

// Derivative of focal_loss by x.
template <int kGamma, class T>
CVLIB_HOST_DEVICE T focal_gradient(const FocalTerm<T>& term, T gamma) {
  if constexpr (kGamma == 0) return term.weight * term.error;
  T factor = term.weight;  // times miss^(gamma - 1)
  if constexpr (kGamma == 2) factor *= term.miss;
  if constexpr (kGamma == kAnyGamma) factor *= power(term.miss, gamma - T(1));
  // Where the bound applies, the slope is 0.
  const T entropy = term.tail + term.reached * smaller(term.reach, T(1000));
  return factor * (term.miss * term.error + gamma * (term.slope * entropy));
}

}  // namespace cvlib
