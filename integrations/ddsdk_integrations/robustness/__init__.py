"""Robust sets, an honest robustness judge, and backdoors."""
