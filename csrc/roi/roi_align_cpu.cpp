// roi_align on the CPU, for one map or a pyramid (algorithm and cost: align_core.h).
#include <vector>

#include "../checks.h"
#include "align_core.h"
#include "tensors.h"

namespace cvlib {
namespace {

// The problem that forward and backward share. Maps are in the order of levels, then images.
template <class T>
AlignProblem<T> make_problem(const std::vector<Tensor>& features, const Tensor& regions,
                             const std::vector<double>& scales, const AlignRule& rule,
                             const Tensor& pooled) {
  AlignProblem<T> problem{};
  const int64_t images = features[0].size(0);
  for (size_t level = 0; level < features.size(); ++level) {
    for (int64_t image = 0; image < images; ++image) {
      problem.maps.push_back(map_of<T>(features[level], image));
      problem.scales.push_back(static_cast<T>(scales[level]));
    }
  }
  problem.regions = data<T>(regions);
  problem.rule = rule;
  problem.channels = features[0].size(1);
  problem.pooled = const_cast<T*>(data<T>(pooled));
  return problem;
}

// Finds the map of each region. `smallest_areas` has one entry per level.
template <class T>
void assign_regions(AlignProblem<T>& problem, int64_t count, int64_t images,
                    const std::vector<double>& smallest_areas) {
  const int64_t levels = static_cast<int64_t>(smallest_areas.size());
  problem.map_of_region.resize(count);
  bool valid = true;
  for (int64_t i = 0; i < count; ++i) {
    const T* region = problem.regions + 5 * i;
    const int64_t level = choose_level(region, smallest_areas.data(), levels);
    valid = valid && is_region(region, images, problem.scales[level * images]);
    problem.map_of_region[i] = valid ? level * images + static_cast<int64_t>(region[0]) : 0;
  }
  check_values(valid);
}

Tensor align(const std::vector<Tensor>& features, const Tensor& regions, const Pyramid& pyramid,
             const AlignRule& rule) {
  std::vector<Tensor> maps;
  const ScalarType type = real_type(features[0].scalar_type());
  for (const Tensor& feature : features) {
    check_roi_arguments(feature, regions, rule.bins_y, rule.bins_x);
    maps.push_back(as_dense(feature));
    check_same_dtype(maps[0], maps.back());
    STD_TORCH_CHECK(
        maps[0].size(0) == maps.back().size(0) && maps[0].size(1) == maps.back().size(1),
        "expected maps of equal batch size and channels");
  }
  const Tensor rows = as_contiguous(as_type(regions, type));
  const int64_t count = rows.size(0), channels = maps[0].size(1);
  Tensor out = empty(maps[0], {count, channels, rule.bins_y, rule.bins_x}, type);
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    AlignProblem<T> problem = make_problem<T>(maps, rows, pyramid.scales, rule, out);
    assign_regions(problem, count, maps[0].size(0), pyramid.smallest_areas);
    if (count > 0 && channels > 0) align_forward(problem);
  });
  return as_type(out, features[0].scalar_type());
}

// Writes every element of `maps`.
void align_gradient(const Tensor& grad, const Tensor& regions, const std::vector<Tensor>& maps,
                    const Pyramid& pyramid, const AlignRule& rule) {
  const ScalarType type = maps[0].scalar_type();
  const Tensor rows = as_contiguous(as_type(regions, type)),
               pooled = as_contiguous(as_type(grad, type));
  dispatch_floating(type, [&](auto zero) {
    using T = decltype(zero);
    AlignProblem<T> problem = make_problem<T>(maps, rows, pyramid.scales, rule, pooled);
    assign_regions(problem, rows.size(0), maps[0].size(0), pyramid.smallest_areas);
    if (!problem.maps.empty() && problem.channels > 0) align_backward(problem);
  });
}

Tensor roi_align_cpu(const Tensor& input, const Tensor& regions, int64_t bins_y, int64_t bins_x,
                     double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const AlignRule rule{bins_y, bins_x, sampling_ratio, aligned};
  return align({input}, regions, {{spatial_scale}, {0.0}}, rule);
}

Tensor roi_align_backward_cpu(const Tensor& grad, const Tensor& regions, int64_t batch,
                              int64_t height, int64_t width, double spatial_scale,
                              int64_t sampling_ratio, bool aligned, bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  STD_TORCH_CHECK(grad.size(0) == regions.size(0), "expected as many gradients as regions");
  const Tensor out = empty_map(grad, batch, grad.size(1), height, width,
                               real_type(grad.scalar_type()), channels_last);
  const AlignRule rule{grad.size(2), grad.size(3), sampling_ratio, aligned};
  align_gradient(grad, regions, {out}, {{spatial_scale}, {0.0}}, rule);
  return as_type(out, grad.scalar_type());
}

Tensor multiscale_roi_align_cpu(std::vector<Tensor> features, const Tensor& regions, int64_t bins_y,
                                int64_t bins_x, std::vector<int64_t> levels, int64_t sampling_ratio,
                                bool aligned, double canonical_scale, int64_t canonical_level) {
  STD_TORCH_CHECK(!features.empty() && features.size() == levels.size(),
                  "expected a level for each map");
  const AlignRule rule{bins_y, bins_x, sampling_ratio, aligned};
  return align(features, regions, make_pyramid(levels, canonical_scale, canonical_level), rule);
}

std::vector<Tensor> multiscale_roi_align_backward_cpu(const Tensor& grad, const Tensor& regions,
                                                      int64_t batch, std::vector<int64_t> sizes,
                                                      std::vector<int64_t> levels,
                                                      int64_t sampling_ratio, bool aligned,
                                                      double canonical_scale,
                                                      int64_t canonical_level, bool channels_last) {
  check_roi_arguments(grad, regions, grad.size(2), grad.size(3));
  STD_TORCH_CHECK(grad.size(0) == regions.size(0), "expected as many gradients as regions");
  STD_TORCH_CHECK(!levels.empty() && sizes.size() == 2 * levels.size(),
                  "expected height and width of each level");
  std::vector<Tensor> maps;
  for (size_t level = 0; level < levels.size(); ++level) {
    maps.push_back(empty_map(grad, batch, grad.size(1), sizes[2 * level], sizes[2 * level + 1],
                             real_type(grad.scalar_type()), channels_last));
  }
  const AlignRule rule{grad.size(2), grad.size(3), sampling_ratio, aligned};
  align_gradient(grad, regions, maps, make_pyramid(levels, canonical_scale, canonical_level), rule);
  for (Tensor& map : maps) map = as_type(map, grad.scalar_type());
  return maps;
}

}  // namespace
}  // namespace cvlib

STABLE_TORCH_LIBRARY_IMPL(cvlib, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&cvlib::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&cvlib::roi_align_backward_cpu));
  m.impl("multiscale_roi_align", TORCH_BOX(&cvlib::multiscale_roi_align_cpu));
  m.impl("multiscale_roi_align_backward", TORCH_BOX(&cvlib::multiscale_roi_align_backward_cpu));
}
