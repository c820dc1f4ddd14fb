"""The label doctor: what is wrong with a data set, before a model learns it."""

from cvlib.data.check.doctor import check_dataset
from cvlib.data.check.fix import Change, Changes, fix_dataset
from cvlib.data.check.report import Report

__all__ = ["Change", "Changes", "Report", "check_dataset", "fix_dataset"]
