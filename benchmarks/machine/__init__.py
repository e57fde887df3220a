"""Benchmarks of the speed and memory of recipes on this machine."""
