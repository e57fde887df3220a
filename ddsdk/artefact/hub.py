"""Distilled sets as data set repositories of the Hugging Face hub: the folder, the upload, and the download.

A repository holds the artefact, a parquet file with pictures for the viewer of the hub and for `datasets`, and
Croissant metadata. An upload is one commit. A download writes no file: the two files of the artefact are read into
memory, and all checks of `read_artifact` run on them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ddsdk.artefact.card import card_markdown, pictorial
from ddsdk.artefact.croissant import croissant_json
from ddsdk.artefact.export import parquet_bytes
from ddsdk.artefact.folder import MAX_MANIFEST_BYTES, Artifact, artifact_files, artifact_from_files, largest_file
from ddsdk.artefact.manifest import decode_manifest
from ddsdk.artefact.sheet import sheet_png
from ddsdk.foundation import ArtifactError, MissingExtraError, clean, make_folder, require, staged_folder, write_atomic

if TYPE_CHECKING:
    from ddsdk.artefact.distilled import Distilled

PICTURES = "data/train-00000-of-00001.parquet"
_CROISSANT = "croissant.json"
_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf://(?:datasets/(?=[^/]+/))?(?P<repo>{_NAME})(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
# The client raises the errors of its HTTP library, which differs between its versions.
_NETWORK = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}


def hub_files(
    distilled: Distilled, *, page: str | None = None, licence: str | None = None, published: str | None = None
) -> dict[str, bytes]:
    """Return the contents of the files of a repository by path.

    Args:
        distilled: Distilled set to publish.
        page: Address of the repository, ``https://HOST/datasets/OWNER/NAME``. None for a folder without one.
        licence: Identifier of the licence on the hub, such as ``"mit"``. None states no licence.
        published: Date of publication in the form YYYY-MM-DD. None states no date.
    """
    manifest = distilled.manifest
    pictures = PICTURES if pictorial(manifest) else None
    data = artifact_files(manifest, distilled.arrays())
    data |= {pictures: parquet_bytes(distilled)} if pictures else {}
    repo = page and page.split("/datasets/")[1]
    card = card_markdown(manifest, pictures=pictures, repo=repo, licence=licence)
    croissant = croissant_json(manifest, data, pictures=pictures, page=page, licence=licence, published=published)
    return {**data, "README.md": card.encode(), "sheet.png": sheet_png(distilled), _CROISSANT: croissant}


def hub_folder(distilled: Distilled, folder: str | os.PathLike[str], *, licence: str | None = None) -> None:
    """Write the files of a repository into a folder that `datasets.load_dataset` reads.

    The files are those of `Distilled.save`, one parquet file with pictures, and `croissant.json`, which states no
    address and no date of publication. Sets of graphs, and images of other than 1 or 3 channels, have no pictures.

    Args:
        distilled: Distilled set to write.
        folder: New or empty folder, which is complete or absent after a crash.
        licence: Identifier of the licence on the hub, such as ``"mit"``. None states no licence.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import hub_folder
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> hub_folder(distilled, "digits-hub")
        >>> ddsdk.Distilled.load("digits-hub").content_id == distilled.content_id
        True
    """
    files = hub_files(distilled, licence=licence)
    with staged_folder(folder) as staged:
        for path, content in files.items():
            make_folder((staged / path).parent)
            write_atomic(staged / path, content)


def push(distilled: Distilled, repo: str, *, token: str | None, private: bool | None, licence: str | None) -> str:
    """Upload a set in one commit, see `Distilled.push_to_hub`.

    Returns:
        The address of the commit, ``"hf://owner/name@commit"``.

    Raises:
        ValueError: If the repository is public and `private` is True, or holds files that ddsdk has not written.
    """
    require(re.fullmatch(_NAME, repo, re.ASCII) is not None, "repo", "be 'owner/name'", repo)
    client = _client("push_to_hub")
    if not token and not client.get_token():
        raise ValueError(f"token must be that of an account that may write to {repo!r}, got none: {_LOGIN}")
    hub = client.HfApi(token=token)
    page, today = f"{hub.endpoint}/datasets/{repo}", datetime.now(UTC).date().isoformat()
    # The files are made before the repository: a set that cannot be shown leaves no empty repository.
    files = hub_files(distilled, page=page, licence=licence, published=today)
    with _plain_errors(repo):
        hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        found = hub.repo_info(repo, repo_type="dataset")
        if private and not found.private:
            raise ValueError(f"repo must be private, got the public {repo!r}: name a new one, or change its settings")
        present = {entry.rfilename for entry in found.siblings or ()}
        foreign = sorted(present & {*files, PICTURES})
        if foreign and "manifest.json" not in present:
            raise ValueError(f"repo must be new or hold a distilled set, got {repo!r} with {', '.join(foreign)}")
        changes = [client.CommitOperationAdd(path, content) for path, content in files.items()]
        if PICTURES in present and PICTURES not in files:
            changes.append(client.CommitOperationDelete(PICTURES))
        # The commit is refused if another one came in between, whose files the checks above have not seen.
        commit = hub.create_commit(
            repo,
            changes,
            commit_message=f"Distilled set {distilled.content_id[:16]}",
            repo_type="dataset",
            parent_commit=found.sha,
        )
    return f"hf://{repo}@{commit.oid}"


def download(address: str, *, max_bytes: int | None = None) -> Artifact:
    """Return the set at an address on the hub after all checks of `read_artifact`, without writing a file.

    Args:
        address: Address ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.
        max_bytes: Largest accepted size of the tensor file, in bytes. None for half of the machine's memory.

    Raises:
        ArtifactError: If there is no such repository or revision, or a check fails.
    """
    match = _ADDRESS.fullmatch(address)
    require(match is not None, "address", "be 'hf://owner/name' or 'hf://owner/name@revision'", address)
    repo, revision = match.group("repo", "revision") if match else ("", None)
    client = _client("Distilled.load")
    with _plain_errors(repo, revision):
        # Both files are read from one commit, also if the set is replaced in between.
        commit = client.HfApi().repo_info(repo, repo_type="dataset", revision=revision).sha
        if re.fullmatch("[0-9a-f]{40}", str(commit)) is None:
            raise ArtifactError("missing", f"the hub gives no commit for {address!r}, got {clean(str(commit), 80)!r}")
        files = client.HfFileSystem(skip_instance_cache=True)
        manifest = _read(files, f"datasets/{repo}@{commit}/manifest.json", MAX_MANIFEST_BYTES)
        size = largest_file(decode_manifest(manifest), max_bytes)
        blob = _read(files, f"datasets/{repo}@{commit}/set.safetensors", size)
    return artifact_from_files(manifest, blob, max_bytes=max_bytes)


def _read(files: Any, path: str, cap: int) -> bytes:  # noqa: ANN401
    # One byte more than the cap is enough for the checks of the size, however much the server sends.
    with files.open(path, "rb", block_size=0) as handle:
        content = bytes(handle.read(cap + 1))
    if len(content) > cap:
        raise ArtifactError("size", f"{path!r} on the hub has more than {cap} bytes; pass a larger max_bytes if it may")
    return content


def _client(feature: str) -> Any:  # noqa: ANN401
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(feature, "huggingface_hub", "hub") from None
    return huggingface_hub


@contextlib.contextmanager
def _plain_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Raise the errors of the client as errors that name the way out.

    Raises:
        ArtifactError: If the repository, the revision or a file does not exist.
        PermissionError: If the account has no right to read or to write.
        ConnectionError: If the hub cannot be reached, or fails.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(f"{repo!r} is gated: ask for access on its page, and {_LOGIN}") from None
    except errors.RepositoryNotFoundError:
        rule = f"check its name; if it is private, {_LOGIN}"
        raise ArtifactError("missing", f"the data set repository {repo!r} does not exist: {rule}") from None
    except errors.RevisionNotFoundError:
        raise ArtifactError("missing", f"{repo!r} has no branch, tag or commit {revision!r}") from None
    except (errors.EntryNotFoundError, FileNotFoundError) as error:
        raise ArtifactError("missing", f"{repo!r} holds no distilled set: {clean(str(error))}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            rule = f"use a token of its owner with the right to write: {_LOGIN}"
            raise PermissionError(f"the hub refuses access to {repo!r} ({status}): {rule}") from None
        reason = clean(error.server_message or str(error))
        raise ConnectionError(f"the hub failed for {repo!r} ({status}): {reason}; try again") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in _NETWORK:
            raise ConnectionError(f"the hub cannot be reached for {repo!r}: {clean(str(error))}") from error
        raise
