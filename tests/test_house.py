"""The rules of the house, read from the source: who imports whom, where chance comes from, what is shipped."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import ddsdk as dd
from ddsdk.foundation import MissingExtraError

ROOT = Path(__file__).parent.parent
CORE = ROOT / "ddsdk"
FILES = sorted(CORE.rglob("*.py"))
INTEGRATIONS = ROOT / "integrations" / "ddsdk_integrations"
ADAPTERS = sorted(INTEGRATIONS.rglob("*.py"))
EVERY_FILE = FILES + ADAPTERS
# The one library that each integration stands on.
LIBRARIES = {
    "continual": "avalanche",
    "federated": "flwr",
    "privacy": "opacus",
    "robustness": "pyautoattack",
    "nas": "optuna",
    "graph": "torch_geometric",
}
# Loops of Avalanche draw from the global generators, so what runs or resumes one has to set them; attacks of
# pyautoattack seed them, so what calls one has to put them back.
SETS_GLOBAL_STATE = {"ddsdk_integrations.continual.resume", "ddsdk_integrations.robustness.library"}

# A room may import from those before it.
ROOMS = (
    *("foundation", "data", "networks", "training", "synthetic", "students", "objectives", "artefact", "running"),
    *("recipes", "baselines", "judging", "planning", "importing", "experiments", "cli"),
)
# Methods of the artefact that forward to a function of a later room or module, so that users find them at the set.
FORWARDS = {"ddsdk.artefact.distilled": {"ddsdk.judging.comparison", "ddsdk.artefact.hub", "ddsdk.artefact.subsets"}}
# Rooms that know each other by protocol only.
STRANGERS = ({"students", "objectives"},)
# Argument with which a reader runs no code of the file.
SAFE_LOADING = {"numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


def module_name(path: Path) -> str:
    base = INTEGRATIONS.parent if INTEGRATIONS in path.parents else CORE.parent
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def stub(package: str) -> dict[str, str]:
    """Names that a package gives, each with the module or room that it comes from, as its stub says."""
    found = {}
    for node in ast.parse((CORE.parent / package.replace(".", "/") / "__init__.pyi").read_text()).body:
        if ast.unparse(node) == "__version__: str":
            continue
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name
            found[alias.name] = f"{package}.{node.module}" if node.module else f"{package}.{alias.name}"
    return found


def facade() -> dict[str, str]:
    """Public name of the facade to the module that defines it; rooms are left out."""
    names = {n: r for n, r in stub("ddsdk").items() if n not in ROOMS}
    return {name: stub(room).get(name, room) if room != "ddsdk.baselines" else room for name, room in names.items()}


class Imports(ast.NodeVisitor):
    """Modules that a file imports anywhere, at run time or for annotations.

    A name that is taken from a room counts as the module that defines it.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.rooms: set[str] = set()
        self.deep: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.found.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        module = str(node.module)
        parts = module.split(".")
        if module == "ddsdk":
            for alias in node.names:
                (self.rooms if alias.name in ROOMS else self.found).add(alias.name)
        elif parts[0] == "ddsdk" and len(parts) == 2 and parts[1] not in ("baselines", "cli"):
            self.found |= {stub(module).get(alias.name, f"{module}.{alias.name}") for alias in node.names}
        else:
            self.found.add(module)
            if parts[0] == "ddsdk" and len(parts) > 2:
                self.deep.add(module)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self.rooms:
            home = stub(f"ddsdk.{node.value.id}")
            if node.value.id != "baselines" and node.attr in home:
                self.found.add(home[node.attr])
        self.generic_visit(node)


@cache
def imports(path: Path) -> Imports:
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text()))
    return visitor


def room(module: str) -> str:
    return module.split(".")[1]


def test_the_package_is_a_table_of_contents():
    shown = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    assert shown == {*ROOMS, "__init__.py", "__init__.pyi", "py.typed"}
    assert len(shown) <= 19
    assert len(set(facade()) - {kind.__name__ for kind in dd.RECIPES.values()}) <= 36
    assert set(dd.__all__) == set(facade())


def test_rooms_import_downwards_and_through_their_doors():
    wrong = []
    for path in FILES:
        me = module_name(path)
        if me == "ddsdk":
            continue
        seen = imports(path)
        others = {m for m in seen.found if m.split(".")[0] in ("ddsdk", "ddsdk_integrations")}
        others |= {f"ddsdk.{name}" for name in seen.rooms}
        for other in others:
            if not other.startswith("ddsdk."):
                wrong.append(f"{me} imports {other}: the core knows no integration")
            elif room(other) == room(me):
                continue
            elif ROOMS.index(room(other)) > ROOMS.index(room(me)) and other not in FORWARDS.get(me, ()):
                wrong.append(f"{me} imports {other}, which is above it")
            elif any({room(me), room(other)} <= pair for pair in STRANGERS):
                wrong.append(f"{me} imports {other}: these rooms are strangers")
        wrong += [f"{me} imports {m} past the door of its room" for m in seen.deep if room(m) != room(me)]
    assert wrong == []


def test_no_module_imports_itself_through_others():
    names = {module_name(p): p for p in EVERY_FILE}
    graph = {
        name: {m for m in imports(p).found - FORWARDS.get(name, set()) if m in names and m != name}
        for name, p in names.items()
    }
    done: set[str] = set()

    def walk(name, path):
        assert name not in path, f"a circle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in graph[name]:
                walk(other, [*path, name])
            done.add(name)

    for name in names:
        walk(name, [])


def resolved(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return the dotted name behind an expression, with import aliases undone."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return "." + ".".join(reversed(parts))
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])


def import_aliases(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
ALWAYS_GLOBAL = {
    *("rand_like", "randn_like", "randint_like", "manual_seed", "seed", "set_rng_state", "get_rng_state"),
    *("dropout", "feature_dropout", "rrelu", "gumbel_softmax", "fork_rng"),
}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "cauchy_", "geometric_", "log_normal_"}
INIT = {
    *("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
    *("xavier_uniform_", "xavier_normal_", "orthogonal_", "sparse_"),
}
LAYERS = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "RReLU"}


def global_draw(call: ast.Call, aliases: dict[str, str]) -> str | None:
    """Return what a call draws from the global state, if it does."""
    name = resolved(call.func, aliases)
    words = {k.arg for k in call.keywords}
    last = name.rsplit(".", 1)[-1]
    if name.startswith(("torch.", "torchvision.")):
        if last in ALWAYS_GLOBAL or last in LAYERS or ".random." in name:
            return name
        if last in DRAWS | INIT and "generator" not in words:
            return name
    elif name.startswith("numpy.random."):
        if last not in {"default_rng", "Generator", "SeedSequence", "PCG64"} or not (call.args or words):
            return name
    elif (
        name == "random"
        or name.startswith("random.")
        or (name.startswith("sklearn.") and "random_state" in inspect_parameters(name) and "random_state" not in words)
    ):
        return name
    elif isinstance(call.func, ast.Attribute) and last in IN_PLACE | {"multinomial", "bernoulli"}:
        return None if "generator" in words else name
    return None


def inspect_parameters(name: str) -> set[str]:
    module, _, attribute = name.rpartition(".")
    return set(inspect.signature(getattr(__import__(module, fromlist=[attribute]), attribute)).parameters)


def test_an_integration_imports_public_names_its_library_and_no_other_integration():
    wrong = []
    for path in ADAPTERS:
        me = module_name(path)
        mine = [*me.split("."), ""][1]
        seen = imports(path)
        for name in seen.found:
            root = name.split(".")[0]
            if root in set(LIBRARIES.values()) - {LIBRARIES.get(mine, "")}:
                wrong.append(f"{me} imports {name}, which is the library of another integration")
            if root == "ddsdk_integrations" and name.split(".")[1] not in (mine, "_require"):
                wrong.append(f"{me} imports {name}, which is another integration")
        wrong += [f"{me} imports {m} past the door of its room" for m in seen.deep]
    assert wrong == []


def test_chance_comes_from_an_explicit_generator():
    wrong = []
    for path in EVERY_FILE:
        if module_name(path) in SETS_GLOBAL_STATE:
            continue
        tree = parsed(path)
        aliases = import_aliases(tree)
        if "random" in {v.split(".")[0] for v in aliases.values()}:
            wrong.append(f"{path} imports the module random, which has one global state")
        draws = [global_draw(n, aliases) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        wrong += [f"{path} draws from the global state by {name}" for name in draws if name]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("import torch\ntorch.rand(3)", True),
        ("import torch\ntorch.rand(3, generator=g)", False),
        ("import torch as t\nt.manual_seed(0)", True),
        ("import torch\ntorch.Generator().manual_seed(0)", False),
        ("from torch import randn as r\nr(3)", True),
        ("import torch\nx.normal_()", True),
        ("import torch\nx.normal_(generator=g)", False),
        ("from torch import nn\nnn.init.kaiming_uniform_(w)", True),
        ("from torch import nn\nnn.Dropout(0.5)", True),
        ("import torch\ntorch.randn_like(x)", True),
        ("import numpy as np\nnp.random.rand(3)", True),
        ("import numpy as np\nnp.random.default_rng()", True),
        ("import numpy as np\nnp.random.default_rng(7)", False),
        ("from random import choice\nchoice([1])", True),
        ("from sklearn.cluster import KMeans\nKMeans(3)", True),
        ("from sklearn.cluster import KMeans\nKMeans(3, random_state=1)", False),
    ],
)
def test_the_check_for_global_chance_finds_it(line, caught):
    tree = ast.parse(line)
    aliases = import_aliases(tree)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert any(global_draw(call, aliases) for call in calls) == caught


def test_nothing_unpickles_or_evaluates():
    for path in EVERY_FILE:
        tree = parsed(path)
        aliases = import_aliases(tree)
        roots = {v.split(".")[0] for v in aliases.values()}
        assert not roots & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            name = resolved(call.func, aliases)
            assert name not in {"torch.save", "eval", "exec", "numpy.save"}, path
            if name in SAFE_LOADING:
                values = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
                argument, value = SAFE_LOADING[name]
                assert values.get(argument) is value, path


def test_files_are_small_and_have_names_that_say_something():
    lengths = []
    for path in EVERY_FILE:
        lengths.append(len(path.read_text().splitlines()))
        assert lengths[-1] <= 450, path
        assert path.stem.lstrip("_") not in FORBIDDEN_NAMES, path
        assert not {p.name for p in path.parents} & FORBIDDEN_NAMES, path
    assert sorted(lengths)[len(lengths) // 2] <= 180


def test_functions_are_short():
    lengths = sorted(
        node.end_lineno - node.body[0].lineno + 1
        for path in EVERY_FILE
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 9 // 10] <= 40


def test_modules_say_what_they_are_for():
    assert [path for path in EVERY_FILE if not ast.get_docstring(parsed(path))] == []


def test_every_name_is_used():
    """A name of a module is given by its room, or stands in another place of what is shipped."""
    words = Counter(w for p in [*EVERY_FILE, *CORE.rglob("*.pyi")] for w in re.findall(r"\w+", p.read_text()))
    dead = []
    for path in EVERY_FILE:
        for node in parsed(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [getattr(node, "name", "")] + [t.id for t in targets if isinstance(t, ast.Name)]
            dead += [f"{path}: {name}" for name in names if words[name] == 1]
    assert dead == []


def test_every_room_gives_what_its_stub_says():
    for name in ROOMS:
        if name in ("cli", "baselines"):
            continue
        home = importlib.import_module(f"ddsdk.{name}")
        for public, module in stub(f"ddsdk.{name}").items():
            assert getattr(home, public) is getattr(importlib.import_module(module), public)


def test_a_public_name_means_one_thing():
    """No two rooms or integrations export different things under one name."""
    folders = [p for root in (ROOT / "ddsdk", ROOT / "integrations" / "ddsdk_integrations") for p in root.iterdir()]
    meanings: dict[str, dict[int, str]] = {}
    for folder in folders:
        if not (folder / "__init__.py").exists():
            continue
        package = folder.relative_to(ROOT).as_posix().removeprefix("integrations/").replace("/", ".")
        try:
            module = importlib.import_module(package)
        except MissingExtraError:
            continue
        for name in getattr(module, "__all__", None) or dir(module):
            meaning = None if name.startswith("_") else getattr(module, name)
            if meaning is not None and not inspect.ismodule(meaning):
                meanings.setdefault(name, {})[id(meaning)] = package
    assert {name: list(found.values()) for name, found in meanings.items() if len(found) > 1} == {}


def test_public_names_explain_themselves():
    for name in dd.__all__:
        thing = getattr(dd, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        assert thing.__doc__
        assert len(thing.__doc__.strip().splitlines()[0]) > 10
        for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(value) and not attribute.startswith("_"):
                assert value.__doc__, f"{name}.{attribute}"


WITHOUT_TORCH = """
import sys
{code}
loaded = {{m.split(".")[0] for m in sys.modules}}
heavy = loaded & {{"torch", "torchvision", "sklearn", "pyarrow"}}
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "code",
    [
        "import ddsdk; assert 'DC' in dir(ddsdk)",
        "from ddsdk.cli import main\nassert main(['--version']) == 0",
        "from ddsdk.cli import main\nassert main(['recipes']) == 0",
        "from ddsdk.cli import main\n"
        "try:\n    main(['distill', '--recipe', 'dc', '--help'])\nexcept SystemExit:\n    pass",
        "from ddsdk.cli import main\ntry:\n    main(['distill', '--help'])\nexcept SystemExit:\n    pass",
        "from ddsdk.cli import main\nassert main(['winners']) == 0",
        "from ddsdk.cli import main\nassert main(['distill', '--recipe', 'dccc']) == 2",
    ],
    ids=["import", "version", "recipes", "help", "help without a recipe", "winners", "refusal"],
)
def test_torch_is_not_imported_before_it_is_needed(code):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH.format(code=code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_is_in_the_wheel(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        (about,) = (archive.read(name).decode() for name in packed if name.endswith(".dist-info/METADATA"))
    for base in (CORE, INTEGRATIONS):
        for path in base.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert str(path.relative_to(base.parent)) in packed
    assert "ddsdk/py.typed" in packed
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(about.splitlines())
    assert f"Version: {dd.__version__}" in about.splitlines()
    assert len(re.findall(r"^Project-URL: ", about, re.M)) >= 3
    # Images and links of the README must show where there is no repository around it.
    assert set(re.findall(r"\]\((?!https://|#)([^)]*)\)", about)) == set()
    assert about.count("](https://raw.") == (ROOT / "README.md").read_text().count(".png)")
    roots = {name.split("/")[0] for name in packed}
    assert {r for r in roots if not r.endswith(".dist-info")} == {"ddsdk", "ddsdk_integrations"}
