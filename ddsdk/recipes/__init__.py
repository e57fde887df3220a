"""One file for each paper, and the table of them."""

from __future__ import annotations

from ddsdk.recipes.acc_dd import AccDD
from ddsdk.recipes.base import IterativeRecipe, NeedsRuns, Recipe
from ddsdk.recipes.cafe import CAFE
from ddsdk.recipes.datadam import DataDAM
from ddsdk.recipes.datm import DATM
from ddsdk.recipes.dc import DC
from ddsdk.recipes.dcc import DCC
from ddsdk.recipes.dd import DD
from ddsdk.recipes.dm import DM
from ddsdk.recipes.dream import DREAM
from ddsdk.recipes.dsa import DSA
from ddsdk.recipes.frepo import FRePo
from ddsdk.recipes.ftd import FTD
from ddsdk.recipes.glad import GLaD
from ddsdk.recipes.gtn import GTN
from ddsdk.recipes.haba import HaBa
from ddsdk.recipes.idc import IDC
from ddsdk.recipes.idm import IDM
from ddsdk.recipes.it_gan import ITGAN
from ddsdk.recipes.jiang import Jiang
from ddsdk.recipes.kfs import KFS
from ddsdk.recipes.kip import KIP
from ddsdk.recipes.krr import KRR
from ddsdk.recipes.ld import LD
from ddsdk.recipes.m3d import M3D
from ddsdk.recipes.mtt import MTT
from ddsdk.recipes.ncfm import NCFM
from ddsdk.recipes.rat_bptt import RaTBPTT
from ddsdk.recipes.rcig import RCIG
from ddsdk.recipes.rded import RDED
from ddsdk.recipes.rfad import RFAD
from ddsdk.recipes.rtp import RTP
from ddsdk.recipes.sldd import SLDD
from ddsdk.recipes.sre2l import SRe2L
from ddsdk.recipes.tesla import TESLA

__all__ = [
    "CAFE",
    "DATM",
    "DC",
    "DCC",
    "DD",
    "DM",
    "DREAM",
    "DSA",
    "FTD",
    "GTN",
    "IDC",
    "IDM",
    "ITGAN",
    "KFS",
    "KIP",
    "KRR",
    "LD",
    "M3D",
    "MTT",
    "NCFM",
    "RCIG",
    "RDED",
    "RECIPES",
    "RFAD",
    "RTP",
    "SLDD",
    "TESLA",
    "AccDD",
    "DataDAM",
    "FRePo",
    "GLaD",
    "HaBa",
    "IterativeRecipe",
    "Jiang",
    "NeedsRuns",
    "RaTBPTT",
    "Recipe",
    "SRe2L",
]

RECIPES: dict[str, type[IterativeRecipe] | type[RDED] | type[KRR]] = {
    "dc": DC,
    "dsa": DSA,
    "dcc": DCC,
    "jiang": Jiang,
    "idc": IDC,
    "dream": DREAM,
    "acc-dd": AccDD,
    "dm": DM,
    "cafe": CAFE,
    "idm": IDM,
    "datadam": DataDAM,
    "m3d": M3D,
    "ncfm": NCFM,
    "sre2l": SRe2L,
    "rded": RDED,
    "mtt": MTT,
    "ftd": FTD,
    "tesla": TESLA,
    "datm": DATM,
    "haba": HaBa,
    "kfs": KFS,
    "it-gan": ITGAN,
    "glad": GLaD,
    "ld": LD,
    "gtn": GTN,
    "kip": KIP,
    "frepo": FRePo,
    "rfad": RFAD,
    "rcig": RCIG,
    "krr": KRR,
    "dd": DD,
    "sldd": SLDD,
    "rtp": RTP,
    "rat-bptt": RaTBPTT,
}
"""Name on the command line (the paper's, in lower case) to recipe."""
