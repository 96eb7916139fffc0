"""Evaluation: the driver, the benchmarks' metrics, comparison of runs."""
