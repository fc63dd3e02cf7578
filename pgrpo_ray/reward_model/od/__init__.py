"""Optimised-Degraded pairs: a model reasons, then makes its reasoning better and worse; the sides become pairs."""
