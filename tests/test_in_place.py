"""Files that are written in place: markers that are new, allocated files, and links that are refused."""

from __future__ import annotations

import os

import pytest

from ddsdk.foundation import StorageError, allocate_file, create_file, open_in_place


def test_a_name_is_taken_once(tmp_path):
    assert create_file(tmp_path / "a", b"first")
    assert not create_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not create_file(tmp_path / "link", b"x")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(StorageError, match=r"cannot create .*No such file or directory"):
        create_file(tmp_path / "no" / "a")


def test_a_name_without_its_content_is_not_taken(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(StorageError, match="No space left"):
            create_file(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == []
    assert create_file(tmp_path / "a", b"first")


def test_an_allocated_file_is_new(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.link(victim, tmp_path / "a")
    (tmp_path / "b").symlink_to(victim)
    for name in "ab":
        allocate_file(tmp_path / name, 3)
        assert (tmp_path / name).read_bytes() == bytes(3)
    assert victim.read_bytes() == b"precious"
    with pytest.raises(StorageError, match="cannot make"):
        allocate_file(tmp_path, 3)


def test_parts_of_a_file_are_written(tmp_path):
    allocate_file(tmp_path / "a", 4)
    with open_in_place(tmp_path / "a") as file:
        file.seek(2)
        file.write(b"x")
    with open_in_place(tmp_path / "a", append=True) as file:
        file.write(b"end")
    assert (tmp_path / "a").read_bytes() == b"\0\0x\0end"


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder", "missing"])
def test_what_is_no_file_of_its_own_is_not_opened(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_bytes(b"precious")
    makes = {
        "symbolic link": lambda: path.symlink_to(victim),
        "hard link": lambda: os.link(victim, path),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "missing": lambda: None,
    }
    makes[kind]()
    with pytest.raises(StorageError, match="cannot write"):
        open_in_place(path)
    assert victim.read_bytes() == b"precious"
