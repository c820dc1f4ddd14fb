// Matrix non-maximum suppression of one group of boxes that are sorted, best first.
//
// With o(i, j) the IoU and c(i) the largest IoU of box i with a better one, the factor of box j is
// the minimum over all better i of f(o(i, j)) / f(c(i)). Pairs with IoU 0 cannot lower it, because
// f(0) = 1 >= f(c); so both passes visit only near chunks (spatial_chunks.h), and no N x N matrix
// is stored. The 32 boxes of a chunk are vector lanes; the others may come in any order, because
// only maxima and minima are taken.
//
// The gaussian quotient is exp(sigma * (c(i)^2 - o(i, j)^2)), so exp is computed once per box.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../parallel.h"
#include "exponential.h"
#include "spatial_chunks.h"

namespace cvlib {

template <class T>
class MatrixSuppressor {
 public:
  MatrixSuppressor(const T* boxes, const int32_t* members, int64_t n)
      : chunks_(boxes, members, n), largest_(chunks_.count * kChunk) {}

  // Calls set(rank, factor) for each box.
  template <class Set>
  void run(bool gaussian, T sigma, const Set& set) {
    over_chunks([&](int64_t c, uint8_t* hits) {
      T largest[kChunk] = {};
      over_better(c, hits, [&](int64_t i) {
        against_chunk(i, c,
                      [&](int lane, T overlap) { largest[lane] = larger(largest[lane], overlap); });
      });
      for (int lane = 0; lane < kChunk; ++lane) largest_[c * kChunk + lane] = largest[lane];
    });
    over_chunks([&](int64_t c, uint8_t* hits) {
      T factors[kChunk];
      if (gaussian) {
        gaussian_factors(c, hits, sigma, factors);
      } else {
        linear_factors(c, hits, factors);
      }
      for (int lane = 0; lane < kChunk; ++lane) {
        const int32_t rank = chunks_.ranks[c * kChunk + lane];
        if (rank != SpatialChunks<T>::kNoRank) set(rank, factors[lane]);
      }
    });
  }

 private:
  static constexpr int64_t kChunksPerTask = 4;

  template <class Function>
  void over_chunks(const Function& function) {
    parallel_for(chunks_.count, kChunksPerTask, [&](int64_t begin, int64_t end) {
      with_best_instructions([&] {
        std::vector<uint8_t> hits(chunks_.count);
        for (int64_t c = begin; c < end; ++c) function(c, hits.data());
      });
    });
  }

  // Calls function(position) for each box that may overlap a worse box of chunk c.
  template <class Function>
  void over_better(int64_t c, uint8_t* hits, const Function& function) const {
    const Box<T> around = chunks_.around[c];
    const int32_t* ranks = chunks_.ranks.data() + c * kChunk;
    int32_t worst = ranks[0];
    for (int lane = 1; lane < kChunk; ++lane) {
      if (ranks[lane] != SpatialChunks<T>::kNoRank) worst = ranks[lane];
    }
    chunks_.find_near(around, hits);
    for (int64_t other = 0; other < chunks_.count; ++other) {
      if (!hits[other]) continue;
      for (int64_t i = other * kChunk; i < (other + 1) * kChunk; ++i) {
        if (chunks_.ranks[i] >= worst) break;  // ranks ascend
        const Box<T> box = chunks_.arrays[i];
        const bool meets = (box.x1 < around.x2) & (around.x1 < box.x2) & (box.y1 < around.y2) &
                           (around.y1 < box.y2);
        if (meets) function(i);
      }
    }
  }

  // Calls function(lane, IoU) for the boxes of chunk c, with IoU 0 for boxes better than i.
  template <class Function>
  void against_chunk(int64_t i, int64_t c, const Function& function) const {
    const Box<T> box = chunks_.arrays[i];
    const T box_area = chunks_.arrays.areas[i];
    const int32_t rank = chunks_.ranks[i];
    const T* __restrict x1 = chunks_.arrays.x1 + c * kChunk;
    const T* __restrict y1 = chunks_.arrays.y1 + c * kChunk;
    const T* __restrict x2 = chunks_.arrays.x2 + c * kChunk;
    const T* __restrict y2 = chunks_.arrays.y2 + c * kChunk;
    const T* __restrict areas = chunks_.arrays.areas + c * kChunk;
    const int32_t* __restrict ranks = chunks_.ranks.data() + c * kChunk;
    for (int lane = 0; lane < kChunk; ++lane) {
      const Box<T> other{x1[lane], y1[lane], x2[lane], y2[lane]};
      const T overlap = iou(box, box_area, other, areas[lane]);
      function(lane, rank < ranks[lane] ? overlap : T(0));
    }
  }

  void gaussian_factors(int64_t c, uint8_t* hits, T sigma, T* factors) const {
    T excess[kChunk] = {};  // largest o^2 - c^2
    over_better(c, hits, [&](int64_t i) {
      const T own = largest_[i] * largest_[i];
      against_chunk(i, c, [&](int lane, T overlap) {
        excess[lane] = larger(excess[lane], overlap * overlap - own);
      });
    });
    for (int lane = 0; lane < kChunk; ++lane) {
      factors[lane] = exp_of_nonpositive(-(sigma * excess[lane]));
    }
  }

  // Duplicates of a box that is itself a duplicate give 0 / 0, which is ignored: `smaller` returns
  // its first argument unless the second is less.
  void linear_factors(int64_t c, uint8_t* hits, T* factors) const {
    T least[kChunk];
    for (int lane = 0; lane < kChunk; ++lane) least[lane] = T(1);
    over_better(c, hits, [&](int64_t i) {
      const T own = T(1) - largest_[i];
      against_chunk(i, c, [&](int lane, T overlap) {
        least[lane] = smaller(least[lane], (T(1) - overlap) / own);
      });
    });
    for (int lane = 0; lane < kChunk; ++lane) factors[lane] = least[lane];
  }

  SpatialChunks<T> chunks_;
  std::vector<T> largest_;  // by position: largest IoU with a better box
};

}  // namespace cvlib
