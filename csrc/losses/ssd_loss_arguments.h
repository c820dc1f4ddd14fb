// Arguments of SSD's loss, checked and made contiguous. Shared by the CPU and CUDA adapters.
#pragma once

#include "../checks.h"
#include "../torch_compat.h"

namespace cvlib {

struct SsdArguments {
  Tensor logits, offsets, classes, target_offsets;  // contiguous; all but classes of one dtype
  int64_t images, anchors, columns;

  SsdArguments(const Tensor& class_logits, const Tensor& predicted, const Tensor& wanted_classes,
               const Tensor& wanted)
      : logits(as_real(class_logits)),
        offsets(as_real(predicted)),
        classes(as_contiguous(wanted_classes)),
        target_offsets(as_real(wanted)) {
    STD_TORCH_CHECK(logits.dim() == 3 && logits.size(2) > 0,
                    "ssd_loss: expected class_logits of shape (B, A, K + 1)");
    images = logits.size(0), anchors = logits.size(1), columns = logits.size(2);
    STD_TORCH_CHECK(classes.dim() == 2 && classes.size(0) == images && classes.size(1) == anchors &&
                        classes.scalar_type() == ScalarType::Long,
                    "ssd_loss: expected int64 classes of shape (B, A)");
    check_offsets(offsets);
    check_offsets(target_offsets);
  }

  int64_t rows() const { return images * anchors; }

 private:
  void check_offsets(const Tensor& values) const {
    check_boxes(values, 3);
    check_same_dtype(values, logits);
    STD_TORCH_CHECK(values.size(0) == images && values.size(1) == anchors,
                    "ssd_loss: expected offsets of shape (B, A, 4)");
  }
};

// Tensors saved by the forward for the backward.
struct SsdSaved {
  Tensor divisor, log_sum_exp, kept;

  SsdSaved(const SsdArguments& arguments, const Tensor& number, const Tensor& logarithms,
           const Tensor& selected)
      : divisor(number), log_sum_exp(as_contiguous(logarithms)), kept(as_contiguous(selected)) {
    check_same_dtype(divisor, arguments.logits);
    check_same_dtype(log_sum_exp, arguments.logits);
    STD_TORCH_CHECK(divisor.numel() == 1 && log_sum_exp.numel() == arguments.rows() &&
                        kept.numel() == arguments.rows() && kept.scalar_type() == ScalarType::Bool,
                    "ssd_loss_backward: expected the tensors saved by ssd_loss");
  }
};

}  // namespace cvlib
