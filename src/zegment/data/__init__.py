"""Datasets, their splits, and the transforms that feed a model."""
