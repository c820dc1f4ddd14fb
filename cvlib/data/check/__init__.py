"""The label doctor: checks a dataset before training, and writes a corrected copy."""

from cvlib.data.check.doctor import check_dataset
from cvlib.data.check.fix import fix_dataset
from cvlib.data.check.report import Report

__all__ = ["Report", "check_dataset", "fix_dataset"]
