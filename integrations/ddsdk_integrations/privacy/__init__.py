"""Private release with Opacus: ``pip install 'ddsdk[privacy]'``."""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("opacus", feature="Private release", package="opacus", extra="privacy")
