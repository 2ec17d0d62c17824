"""Attacks on a sandbox, one module per family or two; made and judged by `benchmarks/sandbox_isolation.py`."""
