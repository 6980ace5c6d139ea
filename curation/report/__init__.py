"""The report of a workspace: one HTML file that shows what was kept, what was dropped, and why."""

from curation.report.page import ReportSettings, write_report

__all__ = ["ReportSettings", "write_report"]
