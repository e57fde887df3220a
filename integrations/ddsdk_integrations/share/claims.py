"""Words that promise something stand only beside what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ddsdk as dd

_CERTIFICATE = "certificate"
CLAIMS: Mapping[str, str] = {
    r"anonym\w*": _CERTIFICATE,
    r"de-?identif\w*": _CERTIFICATE,
    r"privacy[- ]preserving": _CERTIFICATE,
    r"differential\w*": _CERTIFICATE,
    r"private": _CERTIFICATE,
    r"robust\w*": "robustness",
    r"faithful\w*": "faithfulness",
    r"tileable|seamless\w*": "seam",
    r"clean": "scan",
}
"""Pattern of a word to the entry of provenance that must be there; a certificate for words about privacy."""


def check_words(name: str, text: str, distilled: dd.Distilled) -> None:
    """Refuse a text that promises what the set has no measurement of.

    Args:
        name: Of the text, for the message.
        text: Such as the title or the intended use of a release.
        distilled: The set that it goes with.

    Raises:
        ValueError: If it holds a word such as "anonymous" and the set has no certificate, or "robust" without figures.
    """
    for pattern, entry in CLAIMS.items():
        word = re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
        has = distilled.certificate is not None if entry == _CERTIFICATE else entry in distilled.provenance
        if word and not has:
            needed = "a certificate of differential privacy" if entry == _CERTIFICATE else f"figures of {entry}"
            raise ValueError(f"{name} must not say {word.group(0)!r} of a set without {needed}, got {text!r}")
