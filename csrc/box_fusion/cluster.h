// A cluster of weighted boxes fusion. Shared by CPU and CUDA: which box joins which cluster depends
// on every bit of the fused boxes. Everything is float64, whatever the dtype of the boxes.
#pragma once

#include <cstdint>

#include "../box_math.h"

namespace cvlib {

// Values of the schema's int; Python has the same names.
enum class Confidence : int64_t { kAverage, kMaximum, kBoxAndModel, kAbsentModelAware };

constexpr int64_t kMaxModels = 64;  // bits of Cluster::models

struct FusionSettings {
  double iou_threshold;
  Confidence confidence;
  bool allows_overflow;
  const double* weights;  // of each model
  int64_t num_models;
  double total_weight = 0, largest_weight = 0;  // see with_weight_sums
};

// Sums in one order on every device, for equal bits.
CVLIB_HOST_DEVICE FusionSettings with_weight_sums(FusionSettings settings) {
  for (int64_t m = 0; m < settings.num_models; ++m) {
    settings.total_weight += settings.weights[m];
    settings.largest_weight = larger(settings.largest_weight, settings.weights[m]);
  }
  return settings;
}

struct Candidate {
  Box<double> box;
  double score;  // multiplied by the weight of its model
  int64_t model;
};

struct Cluster {
  Box<double> fused;                   // average of the boxes, weighted by their scores
  Box<double> sum;                     // sum of box times score
  double score, weight, model_weight;  // sums; model_weight counts each model once
  double best_score;
  int64_t count;
  uint64_t models;  // one bit per model
};

CVLIB_HOST_DEVICE void add_model(Cluster& cluster, int64_t model, double weight) {
  const uint64_t bit = uint64_t(1) << model;
  if (!(cluster.models & bit)) cluster.model_weight += weight;
  cluster.models |= bit;
}

CVLIB_HOST_DEVICE Cluster start_cluster(const Candidate& c, double weight) {
  const Box<double> b = c.box;
  const double s = c.score;
  return {
      b, {b.x1 * s, b.y1 * s, b.x2 * s, b.y2 * s}, s, weight, weight, s, 1, uint64_t(1) << c.model};
}

CVLIB_HOST_DEVICE void join_cluster(Cluster& cluster, const Candidate& c, double weight) {
  Box<double>& sum = cluster.sum;
  sum.x1 += c.box.x1 * c.score;
  sum.y1 += c.box.y1 * c.score;
  sum.x2 += c.box.x2 * c.score;
  sum.y2 += c.box.y2 * c.score;
  cluster.score += c.score;
  cluster.weight += weight;
  cluster.count += 1;
  add_model(cluster, c.model, weight);
  // With only scores of 0 there is no average: the first box stays.
  if (cluster.score > 0) {
    cluster.fused = {sum.x1 / cluster.score, sum.y1 / cluster.score, sum.x2 / cluster.score,
                     sum.y2 / cluster.score};
  }
}

CVLIB_HOST_DEVICE double fused_score(const Cluster& cluster, const FusionSettings& s) {
  const double count = static_cast<double>(cluster.count);
  const double average = cluster.score / count;
  switch (s.confidence) {
    case Confidence::kMaximum:
      return cluster.best_score / s.largest_weight;
    case Confidence::kBoxAndModel:
      return average * count / cluster.weight * cluster.model_weight / s.total_weight;
    case Confidence::kAbsentModelAware:
      return average * count / (cluster.weight + (s.total_weight - cluster.model_weight));
    default:
      break;
  }
  const double models = static_cast<double>(s.num_models);
  return average * (s.allows_overflow ? count : smaller(models, count)) / s.total_weight;
}

}  // namespace cvlib
