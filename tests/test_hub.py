"""Upload to the Hugging Face hub and download from it, against a local server that keeps repositories in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artefact_sets import forge, make_set, same
from hub_server import TOKEN, running_hub

import ddsdk as dd
from ddsdk.artefact.hub import PICTURES, hub_files, hub_folder
from ddsdk.cli import main
from ddsdk.foundation import MissingExtraError

hub_client = pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")

REPO = "me/digits"
SET_FILES = {"README.md", "manifest.json", "set.safetensors", "sheet.png"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as (fake, address):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield fake


def graph():
    import torch

    return make_set(edge_index=torch.tensor([[0, 5], [5, 0]]), edge_weight=torch.ones(2))


# The client uploads large files in a way that its own HTTP library calls deprecated.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
@pytest.mark.parametrize("large", [(), (".safetensors", ".parquet", ".png")], ids=["small files", "large files"])
def test_a_set_comes_back_from_the_hub(hub, large):
    hub.large = large
    first, second = make_set(soft=True), make_set(seed=1, zca=True, shape=(1, 2, 2), ipc=4)
    address = first.push_to_hub(REPO)
    replaced = second.push_to_hub(REPO, private=False)
    same(dd.Distilled.load(address), first)
    same(dd.Distilled.load(replaced), second)
    same(dd.Distilled.load(f"hf://{REPO}"), second)
    same(dd.Distilled.load(f"hf://datasets/{REPO}@main"), second)


def test_a_push_is_one_commit_of_all_files(hub):
    address = make_set().push_to_hub(REPO, licence="mit")
    commits = hub.repos[REPO]["commits"]
    assert [oid for oid, _ in commits[1:]] == [address.split("@")[1]]
    assert set(hub.files(REPO)) == {*SET_FILES, PICTURES, "croissant.json", ".gitattributes"}
    document = json.loads(hub.files(REPO)["croissant.json"])
    assert document["url"].endswith(f"/datasets/{REPO}")
    assert document["creator"]["name"] == "me"
    assert document["license"] == "mit"
    assert f'load("hf://{REPO}")' in hub.files(REPO)["README.md"].decode()


def test_a_push_that_fails_leaves_the_old_set(hub):
    first, second = make_set(), make_set(seed=1)
    first.push_to_hub(REPO)
    hub.fail = [f"POST /api/datasets/{REPO}/commit"]
    with pytest.raises(ConnectionError, match="try again"):
        second.push_to_hub(REPO)
    same(dd.Distilled.load(f"hf://{REPO}"), first)
    second.push_to_hub(REPO)
    same(dd.Distilled.load(f"hf://{REPO}"), second)


def test_a_commit_in_between_is_not_overwritten(hub, monkeypatch):
    make_set().push_to_hub(REPO)
    create = hub_client.HfApi.create_commit

    def late(*args, **options):
        hub.add(REPO, {**hub.files(REPO), "notes.txt": b"new"})
        return create(*args, **options)

    monkeypatch.setattr(hub_client.HfApi, "create_commit", late)
    with pytest.raises(ConnectionError, match="commit has happened since"):
        make_set(seed=1).push_to_hub(REPO)


def test_pictures_of_an_older_set_are_deleted(hub):
    make_set().push_to_hub(REPO)
    graph().push_to_hub(REPO)
    assert PICTURES not in hub.files(REPO)
    same(dd.Distilled.load(f"hf://{REPO}"), graph())


def test_files_of_others_are_not_overwritten(hub):
    hub.add(REPO, {"README.md": b"# mine", "notes.txt": b""})
    with pytest.raises(ValueError, match=r"repo must be new or hold a distilled set, got 'me/digits' with README.md"):
        make_set().push_to_hub(REPO)
    hub.add("me/notes", {"notes.txt": b"kept"})
    make_set().push_to_hub("me/notes")
    assert hub.files("me/notes")["notes.txt"] == b"kept"


def test_a_private_set_does_not_become_public(hub, monkeypatch):
    hub.add(REPO, {})
    with pytest.raises(ValueError, match="repo must be private, got the public 'me/digits'"):
        make_set().push_to_hub(REPO, private=True)
    assert hub.files(REPO) == {}
    make_set().push_to_hub("me/secret", private=True)
    assert hub.repos["me/secret"]["private"]
    same(dd.Distilled.load("hf://me/secret"), make_set())
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(dd.ArtifactError, match="does not exist: check its name; if it is private, log in"):
        dd.Distilled.load("hf://me/secret")


def test_refusals_of_a_push_name_the_way_out(hub, monkeypatch):
    for repo in ("digits", "me/", "me/../x", "me/a b", "hf://me/x", "me/x/y"):
        with pytest.raises(ValueError, match="repo must be 'owner/name'"):
            make_set().push_to_hub(repo)
    with pytest.raises(PermissionError, match=r"refuses access to 'stranger/x' \(403\): use a token of its owner"):
        make_set().push_to_hub("stranger/x")
    with pytest.raises(PermissionError, match=r"\(401\)"):
        make_set().push_to_hub(REPO, token="hf_wrong")
    with pytest.raises(ValueError, match='"license" must be one of a list'):
        make_set().push_to_hub(REPO, licence="MY OWN")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"token must be that of an account .* set HF_TOKEN"):
        make_set().push_to_hub(REPO)
    make_set().push_to_hub(REPO, token=TOKEN)


def test_refusals_of_a_download_name_the_way_out(hub):
    with pytest.raises(dd.ArtifactError, match="data set repository 'me/none' does not exist") as error:
        dd.Distilled.load("hf://me/none")
    assert error.value.reason == "missing"
    make_set().push_to_hub(REPO)
    with pytest.raises(dd.ArtifactError, match="'me/digits' has no branch, tag or commit 'v2'"):
        dd.Distilled.load(f"hf://{REPO}@v2")
    hub.add("me/other", {"README.md": b""})
    with pytest.raises(dd.ArtifactError, match="'me/other' holds no distilled set"):
        dd.Distilled.load("hf://me/other")
    for address in ("hf://digits", "hf://me/../x", "hf://me/x@", "hf://models/me/x", "hf://me/x y"):
        with pytest.raises(ValueError, match="address must be 'hf://owner/name'"):
            dd.Distilled.load(address)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="the hub cannot be reached for 'me/digits'"):
        dd.Distilled.load(f"hf://{REPO}")


def flipped(path, content):
    return content[:-1] + bytes([content[-1] ^ 1]) if path == "set.safetensors" else content


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (flipped, "hash"),
        (lambda path, content: content[:-4] if path == "set.safetensors" else content, "truncated"),
        (lambda path, content: content + bytes(9 << 20) if path == "set.safetensors" else content, "size"),
        (lambda path, content: content.replace(b'"lr": 0.01', b'"lr": 0.02'), "seal"),
        (lambda path, content: b" " * ((16 << 20) + 1) if path == "manifest.json" else content, "size"),
    ],
    ids=["other numbers", "truncated", "too long", "other protocol", "large manifest"],
)
def test_wrong_bytes_are_refused(hub, tamper, reason):
    make_set().push_to_hub(REPO)
    hub.tamper = tamper
    with pytest.raises(dd.ArtifactError) as error:
        dd.Distilled.load(f"hf://{REPO}")
    assert error.value.reason == reason


def test_a_forged_set_with_hashes_that_fit_is_refused(hub, tmp_path):
    images = make_set().images.numpy().copy()
    images[0, 0, 0, 0] = np.nan
    forge(tmp_path, images=images)
    hub.add(REPO, {name: (tmp_path / name).read_bytes() for name in ("manifest.json", "set.safetensors")})
    with pytest.raises(dd.ArtifactError) as error:
        dd.Distilled.load(f"hf://{REPO}")
    assert error.value.reason == "finite"


def test_the_limit_of_the_size_holds_for_downloads(hub):
    make_set().push_to_hub(REPO)
    with pytest.raises(dd.ArtifactError, match="has more than 100 bytes; pass a larger max_bytes") as error:
        dd.Distilled.load(f"hf://{REPO}", max_bytes=100)
    assert error.value.reason == "size"


def test_files_of_two_commits_are_not_mixed(hub, monkeypatch):
    make_set().push_to_hub(REPO)
    other = hub_files(make_set(seed=1))

    def replaced(path, content):
        if path == "manifest.json":
            hub.add(REPO, other)
        return content

    hub.tamper = replaced
    same(dd.Distilled.load(f"hf://{REPO}"), make_set())


def test_a_download_writes_no_file_and_takes_no_path_of_the_server(hub, tmp_path, monkeypatch):
    """Neither a path in the repository nor the commit that the server names leads to a file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    make_set().push_to_hub(REPO)
    hub.add(REPO, {**hub.files(REPO), "../../evil": b"x", "/evil": b"x"})
    same(dd.Distilled.load(f"hf://{REPO}"), make_set())
    for commit in ("../../../evil", "main/../../x", ""):
        hub.commit_id = commit
        with pytest.raises(dd.ArtifactError, match="the hub gives no commit"):
            dd.Distilled.load(f"hf://{REPO}")
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_of_the_hub_opens_as_the_set(tmp_path):
    hub_folder(make_set(learned_lr=0.5), tmp_path / "set")
    assert {p.relative_to(tmp_path / "set").as_posix() for p in (tmp_path / "set").rglob("*") if p.is_file()} == {
        *SET_FILES,
        PICTURES,
        "croissant.json",
    }
    same(dd.Distilled.load(tmp_path / "set"), make_set(learned_lr=0.5))
    with pytest.raises(OSError, match="holds files already"):
        hub_folder(make_set(seed=1), tmp_path / "set")


def test_the_command_line_pushes_and_pulls(hub, tmp_path, capsys):
    distilled = make_set()
    distilled.save(tmp_path / "set")
    assert main(["push", "set", REPO, "--licence", "mit", "--private"]) == 0
    address = capsys.readouterr().out.strip()
    assert hub.repos[REPO]["private"]
    assert main(["pull", address, "--out", "copy"]) == 0
    assert distilled.content_id in capsys.readouterr().out
    same(dd.Distilled.load(tmp_path / "copy"), distilled)
    assert main(["pull", REPO, "--out", "copy"]) == 2
    assert "address must begin with 'hf://'" in capsys.readouterr().err
    assert main(["inspect", address]) == 2
    assert "does not exist; download a set of the hub with `ddsdk pull ADDRESS" in capsys.readouterr().err
    assert main(["export", "set", "--to", "hub", "--out", "folder"]) == 0
    assert (tmp_path / "folder" / PICTURES).exists()


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    for call in (lambda: make_set().push_to_hub(REPO), lambda: dd.Distilled.load(f"hf://{REPO}")):
        with pytest.raises(MissingExtraError, match=r"ddsdk\[hub\]"):
            call()
