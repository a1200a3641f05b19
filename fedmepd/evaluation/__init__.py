"""Evaluation: scores of many cases as a table, with means and bootstrap intervals.

`table` holds and stores scores, `summary` averages and compares them, `files` makes them from segmentation files.
This package root imports neither torch nor MONAI, so that reports are quick; import `fedmepd.evaluation.files` for
the part that reads images.
"""

from fedmepd.evaluation.summary import MEAN_REGION, Difference, Interval, Summary, bootstrap_mean, compare, summarise
from fedmepd.evaluation.table import CaseScore, read_scores_csv, score_rows, write_scores_csv, write_scores_json

__all__ = [
    "MEAN_REGION",
    "CaseScore",
    "Difference",
    "Interval",
    "Summary",
    "bootstrap_mean",
    "compare",
    "read_scores_csv",
    "score_rows",
    "summarise",
    "write_scores_csv",
    "write_scores_json",
]
