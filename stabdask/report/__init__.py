"""The report of a run: one page of HTML that needs nothing else."""

from stabdask.report.document import write_report

__all__ = ["write_report"]
