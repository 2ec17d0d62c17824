"""Measurements: one file a question, each prints a table last and writes JSON by --json PATH."""
