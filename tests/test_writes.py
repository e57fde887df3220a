"""Files are written by two modules, which follow no link: no other one of the package opens a file for writing."""

from __future__ import annotations

import ast

import pytest
from test_house import EVERY_FILE, import_aliases, module_name, parsed, resolved

# The two modules that write, a file of the operating system that no folder holds, and the process that reads files of
# strangers, which writes into a temporary folder of its parent.
WRITERS = {"ddsdk.foundation.files", "ddsdk.foundation.in_place", "ddsdk.running.preview", "ddsdk.importing.child"}
WRITES = {"mkdir", "makedirs", "write_bytes", "write_text", "touch", "symlink_to", "hardlink_to", "tofile"}
WRITE_NAMES = {"os.open", "os.link", "os.symlink", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree"}
WRITE_NAMES |= {"shutil.move", "tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.NamedTemporaryFile"}


def opens_for_writing(call: ast.Call) -> bool:
    """Return whether a call is `open` or `Path.open` with a mode that writes."""
    is_builtin = isinstance(call.func, ast.Name) and call.func.id == "open"
    if not is_builtin and not (isinstance(call.func, ast.Attribute) and call.func.attr == "open"):
        return False
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[int(is_builtin) :][:1]
    return any(isinstance(m, ast.Constant) and isinstance(m.value, str) and set(m.value) & set("wax+") for m in modes)


def file_write(call: ast.Call, aliases: dict[str, str]) -> str | None:
    """Return how a call writes into a folder, if it does."""
    name = resolved(call.func, aliases)
    attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return name if name in WRITE_NAMES or attribute in WRITES or opens_for_writing(call) else None


def test_files_are_written_by_the_modules_that_follow_no_link():
    wrong = []
    for path in EVERY_FILE:
        if module_name(path) in WRITERS:
            continue
        tree = parsed(path)
        aliases = import_aliases(tree)
        found = [file_write(n, aliases) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        wrong += [f"{path} writes by {name}" for name in found if name]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("path.mkdir()", True),
        ("path.write_bytes(b'')", True),
        ("path.open('wb')", True),
        ("path.open(mode='r+b')", True),
        ("open('a', 'a')", True),
        ("open('a', mode='x')", True),
        ("import os\nos.open('a', flags)", True),
        ("import shutil\nshutil.copytree(a, b)", True),
        ("path.open('rb')", False),
        ("open('wax')", False),
        ("path.open()", False),
        ("archive.open(member, 'w')", False),
        ("path.read_bytes()", False),
    ],
)
def test_the_check_for_writes_finds_them(line, caught):
    tree = ast.parse(line)
    aliases = import_aliases(tree)
    assert any(file_write(n, aliases) for n in ast.walk(tree) if isinstance(n, ast.Call)) == caught
