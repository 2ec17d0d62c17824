"""Policies: the one place that knows Qwen3-VL, its wire format, and the small one built from random weights."""
