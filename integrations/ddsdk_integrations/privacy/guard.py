"""What would break the guarantee, refused with its reason before a record is looked at."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddsdk_integrations.privacy.mechanism import PrivacyError

__all__ = ["refuse_mixing", "refuse_private_start"]

_PUBLIC_STARTS = ("noise",)


def refuse_mixing(network: nn.Module) -> None:
    """Refuse a network in which one record changes what is made of another.

    Every module is looked at, frozen ones too: the validator of Opacus sees only those with trainable parameters.

    Raises:
        PrivacyError: If there is batch normalisation, or a norm with running statistics.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise PrivacyError(
                f"network must treat records one by one, got {kind} at {name or 'its root'}: take a group or an "
                "instance norm without running statistics"
            )


def refuse_private_start(start: str) -> None:
    """Refuse images that begin as records, or as means of records.

    Raises:
        PrivacyError: Unless the start is noise.
    """
    if start not in _PUBLIC_STARTS:
        raise PrivacyError(
            f"start must be one of {', '.join(_PUBLIC_STARTS)}, got {start!r}: images that begin as records are records"
        )
