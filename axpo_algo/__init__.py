"""Trains vision-language policies on tool-use environments. Importing this package loads nothing else."""
