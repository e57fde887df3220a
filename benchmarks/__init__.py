"""Measurements of ddsdk and of its integrations; no part of the wheel."""
