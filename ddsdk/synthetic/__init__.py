"""Synthetic sets: what they store, their labels, and where they start."""
