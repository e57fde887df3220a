"""Objectives: byproduct x distance."""
