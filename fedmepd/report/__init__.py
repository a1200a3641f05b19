"""The HTML report of a run: one self-contained file, readable on a phone and in print.

`run` reads a run folder; `curves`, `forest`, `heat`, `anchors` and `overlays` draw; `score_tables` and `facts`
arrange numbers; `page` puts them into the template. No module here imports torch or MONAI.
"""

from fedmepd.report.page import write_report

__all__ = ["write_report"]
