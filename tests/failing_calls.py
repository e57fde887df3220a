"""A call of the operating system that fails at a chosen time."""

from __future__ import annotations

import os


def fail_at(monkeypatch, name, n, error=None):
    """Make the n-th call of os.<name> raise; the list that comes back counts the calls."""
    real, calls = getattr(os, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == n:
            raise error or OSError(5, "injected")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return calls
