"""`ddsdk push` and `ddsdk pull`: upload of a distilled set to the Hugging Face hub, and download from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddsdk import artefact
from ddsdk.cli.console import out
from ddsdk.cli.distill import announce_set
from ddsdk.foundation import require


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload a distilled set to the Hugging Face hub in one commit, with pictures, dataset card and metadata.

    The token is that of `hf auth login` or of HF_TOKEN.

    Attributes:
        set: Folder of the artefact.
        repo: Name of the data set repository, owner/name. It is made if it does not exist.
        private: Whether the repository is private. An existing public one is refused.
        licence: Identifier of the licence on the hub, such as mit. None: no licence is stated.
    """

    set: tyro.conf.Positional[Path]
    repo: tyro.conf.Positional[str]
    private: bool = False
    licence: str | None = None

    def run(self) -> int:
        """Return exit code 0 after the upload."""
        distilled = artefact.Distilled.load(self.set)
        out(distilled.push_to_hub(self.repo, private=self.private or None, licence=self.licence))
        return 0


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Download a distilled set from the Hugging Face hub, check it, and save it.

    Attributes:
        address: Address of the set, hf://owner/name or hf://owner/name@revision.
        out: Folder of the artefact to write.
    """

    address: tyro.conf.Positional[str]
    out: Path

    def run(self) -> int:
        """Return exit code 0 after saving the set."""
        require(self.address.startswith("hf://"), "address", "begin with 'hf://'", self.address)
        distilled = artefact.Distilled.load(self.address)
        distilled.save(self.out)
        out(f"{len(distilled)} images, content id {distilled.content_id}")
        announce_set(self.out)
        return 0
