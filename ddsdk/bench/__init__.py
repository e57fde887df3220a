"""Measurements: speed, and the plain implementations that they are held against."""
