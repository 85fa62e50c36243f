"""Orchestration: plans, partitions, stores and receipts; the only layer that knows distributed."""
