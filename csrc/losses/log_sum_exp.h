// Log-sum-exp of many rows on the CPU, in one pass over memory.
//
// Rows are short (a class count), so a single row would leave most of a vector register empty, and
// its final sums would cost more than its exponentials. Therefore a block of rows goes through each
// step together, as plain loops that compilers vectorise: maxima, differences, exponentials, sums.
// A row is summed in kLanes lanes and then as a tree, whatever the width of the registers, so that
// every instruction set gives equal bits.
#pragma once

#include <algorithm>
#include <vector>

#include "ssd_loss.h"

namespace cvlib {

constexpr int64_t kRowsAtOnce = 64;
constexpr int64_t kNumbersAtOnce = 4096;  // 16 KB in float

// Combines the two halves of each row of 2 kWidth numbers into a row of kWidth.
template <int kWidth, class T, class Combine>
CVLIB_HOST_DEVICE void fold_lanes(T* __restrict lanes, int64_t rows, const Combine& combine) {
  for (int64_t r = 0; r < rows; ++r) {
    T folded[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      folded[lane] = combine(lanes[2 * kWidth * r + lane], lanes[2 * kWidth * r + kWidth + lane]);
    }
    for (int lane = 0; lane < kWidth; ++lane) lanes[kWidth * r + lane] = folded[lane];
  }
}

// Combines each row into lanes[r].
template <class T, class Combine>
CVLIB_HOST_DEVICE void fold_rows(T* lanes, int64_t rows, const Combine& combine) {
  static_assert(kLanes == 16);
  fold_lanes<8>(lanes, rows, combine);
  fold_lanes<4>(lanes, rows, combine);
  fold_lanes<2>(lanes, rows, combine);
  fold_lanes<1>(lanes, rows, combine);
}

// The remainder of a row after its last full group of lanes, as kLanes readable numbers of which
// the first `rest` belong to the row. At the end of the tensor they are copied into `copy`.
template <class T>
CVLIB_HOST_DEVICE const T* read_tail(const T* tail, int rest, const T* end, T* copy) {
  if (tail + kLanes <= end) return tail;
  for (int lane = 0; lane < kLanes; ++lane) copy[lane] = lane < rest ? tail[lane] : T(0);
  return copy;
}

// Processes `rows` rows from `values` on; the tensor ends at `end`. `buffer` has room for the rows
// and kLanes more numbers.
template <class T>
CVLIB_HOST_DEVICE void log_sum_exp_of_block(const T* values, const T* end, int64_t rows,
                                            int64_t columns, T* __restrict buffer,
                                            T* __restrict result) {
  alignas(64) T largest[kRowsAtOnce * kLanes], sums[kRowsAtOnce * kLanes], copy[kLanes];
  const int64_t full = columns / kLanes * kLanes;
  const int rest = static_cast<int>(columns - full);
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict row = values + r * columns;
    T best[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) best[lane] = T(-INFINITY);
    if (rest > 0) {
      const T* __restrict tail = read_tail(row + full, rest, end, copy);
      for (int lane = 0; lane < kLanes; ++lane) {
        const T value = tail[lane];
        best[lane] = lane < rest ? larger(best[lane], value) : best[lane];
      }
    }
    for (int64_t k = 0; k < full; k += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) best[lane] = larger(best[lane], row[k + lane]);
    }
    for (int lane = 0; lane < kLanes; ++lane) largest[r * kLanes + lane] = best[lane];
  }
  fold_rows(largest, rows, [](T a, T b) { return larger(a, b); });
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict row = values + r * columns;
    T* __restrict out = buffer + r * columns;
    for (int64_t k = 0; k < full; k += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) out[k + lane] = row[k + lane] - largest[r];
    }
    if (rest == 0) continue;
    // Excess lanes overwrite the start of the next row, which is written later.
    const T* __restrict tail = read_tail(row + full, rest, end, copy);
    for (int lane = 0; lane < kLanes; ++lane) out[full + lane] = tail[lane] - largest[r];
  }
  for (int64_t i = 0; i < rows * columns; ++i) buffer[i] = vector_exp(buffer[i]);
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict row = buffer + r * columns;
    T sum[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const T value = row[full + lane];
      sum[lane] = lane < rest ? value : T(0);
    }
    for (int64_t k = 0; k < full; k += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += row[k + lane];
    }
    for (int lane = 0; lane < kLanes; ++lane) sums[r * kLanes + lane] = sum[lane];
  }
  fold_rows(sums, rows, [](T a, T b) { return a + b; });
  for (int64_t r = 0; r < rows; ++r) result[r] = largest[r] + vector_log(sums[r]);
}

// Processes the rows begin..end of a matrix.
template <class T>
CVLIB_HOST_DEVICE void log_sum_exp_of_rows(const T* matrix, int64_t all_rows, int64_t columns,
                                           int64_t begin, int64_t end, T* result) {
  const int64_t step = std::max<int64_t>(1, std::min(kRowsAtOnce, kNumbersAtOnce / columns));
  std::vector<T> buffer(step * columns + kLanes);
  for (int64_t first = begin; first < end; first += step) {
    log_sum_exp_of_block(matrix + first * columns, matrix + all_rows * columns,
                         std::min(step, end - first), columns, buffer.data(), result + first);
  }
}

}  // namespace cvlib
