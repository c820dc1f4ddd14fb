// Pairwise IoU of N and M masks on the CPU.
//
// Each mask is read once and packed into 64-bit words, one bit per pixel. A map on top has one bit
// for each word that is not zero. A pair of masks compares the maps first and then only the words
// in which both have pixels. Memory traffic: H x W bytes read per mask, an eighth of that written.
// Operations per pair: H x W / 4096 for the maps, and at most an AND, a bit count and an addition
// per 64 pixels.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "../parallel.h"
#include "checks.h"
#include "mask_iou.h"
#include "planes.h"

namespace cvlib {
namespace {

constexpr int64_t kMapBits = 64;  // words per word of the map
constexpr int64_t kPixelsPerTask = 65536;
// From this many common words on, counting all 64 words under a map word is faster.
constexpr int kDense = 16;

struct PackedMasks {
  explicit PackedMasks(const Planes& planes)
      : count(planes.count),
        maps((planes.size() + kWordBits * kMapBits - 1) / (kWordBits * kMapBits)),
        words(static_cast<uint64_t*>(std::calloc(count * maps * kMapBits + 1, sizeof(uint64_t)))),
        map(new uint64_t[count * maps]),
        areas(new int64_t[count]) {
    STD_TORCH_CHECK(words != nullptr, "mask_iou: not enough memory for the packed masks");
  }

  const uint64_t* words_of(int64_t n) const { return words.get() + n * maps * kMapBits; }
  const uint64_t* map_of(int64_t n) const { return map.get() + n * maps; }

  struct Free {
    void operator()(uint64_t* pointer) const { std::free(pointer); }
  };

  int64_t count, maps;
  // Zero words are not written, so that most pages stay untouched.
  std::unique_ptr<uint64_t[], Free> words;
  std::unique_ptr<uint64_t[]> map;
  std::unique_ptr<int64_t[]> areas;
};

template <class L>
int count_bits(L, uint64_t word) {
  if constexpr (L::kHasFma) {
    return __builtin_popcountll(word);  // one instruction on all processors with FMA
  } else {
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return static_cast<int>(word * 0x0101010101010101 >> 56);
  }
}

// One register, as bytes and as words. Vector types in templates must be members of a struct.
template <int kBytes>
struct Register {
  typedef uint8_t Bytes __attribute__((vector_size(kBytes)));
  typedef uint64_t Words __attribute__((vector_size(kBytes)));
};

// Packs 64 bytes into 64 bits, in an order that is fixed for all masks.
template <class L>
uint64_t pack_word(L, const uint8_t* pixels) {
  constexpr int kBytes = L::kVectorBytes, kLanes = kBytes / 8;
  uint64_t packed = 0;
  for (int k = 0; k < 64 / kBytes; ++k) {
    typename Register<kBytes>::Bytes bytes;
    std::memcpy(&bytes, pixels + k * kBytes, kBytes);
    // Each of 8 bytes keeps a different bit, and folding merges them into one byte.
    auto lanes = (typename Register<kBytes>::Words)(bytes != 0) & 0x8040201008040201u;
    lanes |= lanes >> 32;
    lanes |= lanes >> 16;
    lanes |= lanes >> 8;
    for (int i = 0; i < kLanes; ++i) packed |= (lanes[i] & 0xff) << (8 * (k * kLanes + i));
  }
  return packed;
}

// Packs the 4096 pixels under one word of the map; returns that word.
template <class L>
uint64_t pack_block(L level, const uint8_t* pixels, int64_t size, uint64_t* words) {
  uint64_t occupied = 0;
  for (int64_t w = 0; w < kMapBits; ++w) {
    const int64_t left = size - w * kWordBits;
    if (left <= 0) break;
    uint64_t word;
    if (left >= kWordBits) {
      word = pack_word(level, pixels + w * kWordBits);
    } else {
      uint8_t padded[kWordBits] = {};
      std::memcpy(padded, pixels + w * kWordBits, left);
      word = pack_word(level, padded);
    }
    if (word == 0) continue;
    words[w] = word;
    occupied |= uint64_t{1} << w;
  }
  return occupied;
}

template <class L>
int64_t count_shared(L level, const PackedMasks& a, int64_t i, const PackedMasks& b, int64_t j) {
  const uint64_t* __restrict words_a = a.words_of(i);
  const uint64_t* __restrict words_b = b.words_of(j);
  const uint64_t* __restrict map_a = a.map_of(i);
  const uint64_t* __restrict map_b = b.map_of(j);
  int64_t shared = 0;
  for (int64_t block = 0; block < a.maps; ++block) {
    uint64_t common = map_a[block] & map_b[block];
    if (common == 0) continue;
    const uint64_t* in_a = words_a + block * kMapBits;
    const uint64_t* in_b = words_b + block * kMapBits;
    if (count_bits(level, common) >= kDense) {
      for (int64_t w = 0; w < kMapBits; ++w) shared += count_bits(level, in_a[w] & in_b[w]);
    } else {
      for (; common != 0; common &= common - 1) {
        const int w = __builtin_ctzll(common);
        shared += count_bits(level, in_a[w] & in_b[w]);
      }
    }
  }
  return shared;
}

PackedMasks pack(const Planes& planes) {
  PackedMasks packed(planes);
  const uint8_t* pixels = data<uint8_t>(planes.tensor);
  constexpr int64_t kBlock = kWordBits * kMapBits;
  parallel_for(
      planes.count * packed.maps, kPixelsPerTask / kBlock, [&](int64_t begin, int64_t end) {
        with_best_instructions([&](auto level) {
          for (int64_t task = begin; task < end; ++task) {
            const int64_t n = task / packed.maps, first = task % packed.maps * kBlock;
            packed.map[task] =
                pack_block(level, pixels + n * planes.stride + first,
                           std::min(kBlock, planes.size() - first), &packed.words[task * kMapBits]);
          }
        });
      });
  parallel_for(planes.count, kPixelsPerTask / (packed.maps + 1) + 1,
               [&](int64_t begin, int64_t end) {
                 with_best_instructions([&](auto level) {
                   for (int64_t n = begin; n < end; ++n) {
                     packed.areas[n] = count_shared(level, packed, n, packed, n);
                   }
                 });
               });
  return packed;
}

void fill_pairs(const PackedMasks& a, const PackedMasks& b, const bool* is_crowd, float* out) {
  const int64_t m = b.count;
  parallel_for(a.count * m, kPixelsPerTask / (a.maps + 1) + 1, [&](int64_t begin, int64_t end) {
    with_best_instructions([&](auto level) {
      for (int64_t pair = begin; pair < end; ++pair) {
        const int64_t i = pair / m, j = pair % m;
        out[pair] = iou_of_counts(count_shared(level, a, i, b, j), a.areas[i], b.areas[j],
                                  is_crowd != nullptr && is_crowd[j]);
      }
    });
  });
}

Tensor mask_iou_cpu(const Tensor& masks1, const Tensor& masks2,
                    const std::optional<Tensor>& is_crowd) {
  check_mask_pairs(masks1, masks2, is_crowd);
  const Planes first = as_planes(masks1), second = as_planes(masks2);
  Tensor out = empty(masks1, {first.count, second.count}, ScalarType::Float);
  if (first.count == 0 || second.count == 0) return out;
  const Tensor flags = is_crowd ? as_contiguous(*is_crowd) : Tensor();
  const bool* crowd = is_crowd ? data<bool>(flags) : nullptr;
  float* result = mutable_data<float>(out);
  const PackedMasks a = pack(first);
  const bool is_same = data<void>(first.tensor) == data<void>(second.tensor) &&
                       first.count == second.count && first.stride == second.stride;
  if (is_same) {
    fill_pairs(a, a, crowd, result);
  } else {
    fill_pairs(a, pack(second), crowd, result);
  }
  return out;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) { m.impl("mask_iou", TORCH_BOX(&cvlib::mask_iou_cpu)); }
