// Soft non-maximum suppression of one group of boxes.
//
// Boxes are selected best score first, and each lowers the scores of the boxes that it overlaps.
// Only chunks of near boxes are touched (spatial_chunks.h), and every chunk stores its best score,
// so a selection costs a few operations per chunk plus the near pairs, not N pairs.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "decay.h"
#include "spatial_chunks.h"

namespace cvlib {

// Scores are compared as integers, because compilers vectorise only integer maxima. Scores are not
// negative, so their bits order like the scores; dropped boxes have a negative number.
template <class T>
using ScoreBits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
class SoftSuppressor {
 public:
  SoftSuppressor(const T* boxes, const T* scores, const int32_t* members, int64_t n,
                 const SoftDecay<T>& decay)
      : chunks_(boxes, members, n),
        decay_(decay),
        scores_(chunks_.count * kChunk, kOut<T>),
        best_(chunks_.count),
        best_rank_(chunks_.count),
        position_(n),
        hits_(chunks_.count) {
    for (int64_t position = 0; position < chunks_.count * kChunk; ++position) {
      const int32_t rank = chunks_.ranks[position];
      if (rank == SpatialChunks<T>::kNoRank) continue;
      position_[rank] = static_cast<int32_t>(position);
      scores_[position] = scores[members[rank]] + T(0);  // -0 becomes 0
    }
    for (int64_t c = 0; c < chunks_.count; ++c) find_best(c);
  }

  // Calls select(rank, score) for each selected box, at most `limit` times.
  template <bool kGaussian, class Select>
  void run(int64_t limit, const Select& select) {
    for (int64_t selected = 0; selected < limit; ++selected) {
      const int32_t rank = best_of_all();
      if (rank == SpatialChunks<T>::kNoRank) return;
      const int64_t position = position_[rank];
      select(rank, scores_[position]);
      scores_[position] = kOut<T>;
      lower_around<kGaussian>(position);
    }
  }

 private:
  using Bits = ScoreBits<T>;

  void find_best(int64_t c) {
    const T* __restrict scores = scores_.data() + c * kChunk;
    Bits best = std::bit_cast<Bits>(scores[0]);
    for (int lane = 1; lane < kChunk; ++lane) {
      const Bits bits = std::bit_cast<Bits>(scores[lane]);
      best = bits > best ? bits : best;
    }
    Bits first = kChunk - 1;  // ranks ascend within a chunk
    for (int lane = 0; lane < kChunk; ++lane) {
      const Bits here = std::bit_cast<Bits>(scores[lane]) == best ? Bits(lane) : Bits(kChunk - 1);
      first = here < first ? here : first;
    }
    best_[c] = best;
    best_rank_[c] = chunks_.ranks[c * kChunk + first];
  }

  // The lowest rank among the best scores, or kNoRank when no box is left.
  int32_t best_of_all() const {
    const Bits* __restrict best = best_.data();
    const int32_t* __restrict ranks = best_rank_.data();
    Bits highest = -1;
    for (int64_t c = 0; c < chunks_.count; ++c) highest = best[c] > highest ? best[c] : highest;
    int32_t lowest = SpatialChunks<T>::kNoRank;
    if (highest < 0) return lowest;
    for (int64_t c = 0; c < chunks_.count; ++c) {
      const int32_t rank = best[c] == highest ? ranks[c] : SpatialChunks<T>::kNoRank;
      lowest = rank < lowest ? rank : lowest;
    }
    return lowest;
  }

  template <bool kGaussian>
  void lower_around(int64_t position) {
    const Box<T> box = chunks_.arrays[position];
    chunks_.find_near(box, hits_.data());
    hits_[position / kChunk] =
        1;  // its own score has changed, even if an empty box overlaps nothing
    for (int64_t c = 0; c < chunks_.count; ++c) {
      if (!hits_[c] || best_[c] < 0) continue;
      lower_chunk<kGaussian>(box, chunks_.arrays.areas[position], c * kChunk);
      find_best(c);
    }
  }

  template <bool kGaussian>
  void lower_chunk(const Box<T>& box, T box_area, int64_t begin) {
    const T* __restrict x1 = chunks_.arrays.x1 + begin;
    const T* __restrict y1 = chunks_.arrays.y1 + begin;
    const T* __restrict x2 = chunks_.arrays.x2 + begin;
    const T* __restrict y2 = chunks_.arrays.y2 + begin;
    const T* __restrict areas = chunks_.arrays.areas + begin;
    T* __restrict scores = scores_.data() + begin;
    const SoftDecay<T> decay = decay_;
    for (int lane = 0; lane < kChunk; ++lane) {
      const Box<T> other{x1[lane], y1[lane], x2[lane], y2[lane]};
      const T overlap = iou(box, box_area, other, areas[lane]);
      const T lowered = decay.template lower<kGaussian>(scores[lane], overlap);
      scores[lane] = lowered >= decay.score_threshold ? lowered : kOut<T>;
    }
  }

  SpatialChunks<T> chunks_;
  SoftDecay<T> decay_;
  std::vector<T> scores_;           // by position
  std::vector<Bits> best_;          // best score of each chunk
  std::vector<int32_t> best_rank_;  // rank of its first box with this score
  std::vector<int32_t> position_;   // position of each rank
  std::vector<uint8_t> hits_;
};

}  // namespace cvlib
