"""The rules of the house, read from the source: who imports whom, where chance comes from, what is shipped."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

import ddsdk as dd

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
SETS_GLOBAL_STATE = {
    "ddsdk_integrations.continual.benchmark",
    "ddsdk_integrations.continual.resume",
    "ddsdk_integrations.robustness.library",
}

# A module may import from its own level and from those before it.
LEVELS = (
    {"errors", "rng", "files", "text"},
    {"data", "augment", "networks", "work"},
    {"inner"},
    {"synthetic", "students", "objectives"},
    {
        *("distill", "evaluation", "judge", "distilled", "artifact", "manifest", "safetensor_header"),
        *("card", "sheet", "report", "export", "checkpoint", "job", "assemble", "scores", "preview"),
        *("validation", "faults", "distributed", "codecs", "certificate", "audit"),
    },
    {"recipes", "baselines"},
    {"bench", "cli"},
)
# Rooms of one level that know each other by protocol only.
STRANGERS = ({"synthetic", "students", "objectives"}, {"recipes", "baselines"})
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


def module_name(path: Path) -> str:
    base = INTEGRATIONS.parent if INTEGRATIONS in path.parents else CORE.parent
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def public() -> dict[str, str]:
    """Public name to the module that defines it, as the stub says."""
    stub = ast.parse((CORE / "__init__.pyi").read_text())
    found = {}
    for node in stub.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name
            found[alias.name] = f"ddsdk.{node.module}"
    return found


class Imports(ast.NodeVisitor):
    """Modules that a file imports anywhere, but for annotations; `dd.NAME` counts as its home."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: set[str] = set()
        self.aliases: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        guarded = "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.orelse if guarded else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name == "ddsdk":
                self.aliases.add(alias.asname or "ddsdk")
            else:
                self.found.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        if node.module == "ddsdk":
            self.found |= {public()[alias.name] for alias in node.names}
        else:
            self.found.add(str(node.module))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self.aliases:
            assert node.attr in public(), f"ddsdk.{node.attr} is not public"
            self.found.add(public()[node.attr])
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Pass over the annotation."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        node.returns = None
        self.generic_visit(node)


def imports(path: Path) -> set[str]:
    visitor = Imports(module_name(path))
    visitor.visit(ast.parse(path.read_text()))
    return visitor.found


def room(module: str) -> str:
    return module.split(".")[1]


def level(module: str) -> int:
    (found,) = [i for i, names in enumerate(LEVELS) if room(module) in names]
    return found


CORE_FILES = [p for p in FILES if p != CORE / "__init__.py"]


@pytest.mark.parametrize("path", CORE_FILES, ids=module_name)
def test_imports_run_one_way(path):
    me = module_name(path)
    if not me.startswith("ddsdk."):
        return
    for other in imports(path):
        assert other.split(".")[0] != "ddsdk_integrations", "the core knows no integration"
        if other.split(".")[0] != "ddsdk" or room(other) == room(me):
            continue
        assert level(other) <= level(me), f"{me} must not import {other}"
        for group in STRANGERS:
            assert not ({room(me), room(other)} <= group), f"{me} must not import {other}"


def test_no_module_imports_itself_through_others():
    names = {module_name(p): p for p in FILES}
    graph = {name: {m for m in imports(p) if m in names} for name, p in names.items()}
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
IN_PLACE = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "random_",
    "exponential_",
    "cauchy_",
    "geometric_",
    "log_normal_",
}
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
        or (
            name.startswith("sklearn.")
            and "random_state" in inspect_parameters(name)
            and "random_state" not in words
        )
    ):
        return name
    elif isinstance(call.func, ast.Attribute) and last in IN_PLACE | {"multinomial", "bernoulli"}:
        return None if "generator" in words else name
    return None


def inspect_parameters(name: str) -> set[str]:
    module, _, attribute = name.rpartition(".")
    return set(inspect.signature(getattr(__import__(module, fromlist=[attribute]), attribute)).parameters)


def exported(module: str) -> set[str]:
    """Names in the __all__ of a module of the core."""
    base = CORE.parent / Path(*module.split("."))
    source = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
    for node in parsed(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", ADAPTERS, ids=module_name)
def test_an_integration_imports_public_names_its_library_and_no_other_integration(path):
    parts = module_name(path).split(".")
    mine = parts[1] if len(parts) > 1 else ""
    for node in ast.walk(parsed(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        module = node.module if isinstance(node, ast.ImportFrom) else None
        for name in [*names, *([module] if module else [])]:
            root = name.split(".")[0]
            assert root not in set(LIBRARIES.values()) - {LIBRARIES.get(mine, "")}, name
            if root == "ddsdk_integrations":
                assert name.split(".")[1] in (mine, "_require"), f"{parts} must not import {name}"
        if module and module.split(".")[0] == "ddsdk" and module != "ddsdk":
            for alias in node.names:
                assert alias.name in exported(module), f"{module}.{alias.name} is not public"


@pytest.mark.parametrize(
    "path", [p for p in EVERY_FILE if module_name(p) not in SETS_GLOBAL_STATE], ids=module_name
)
def test_chance_comes_from_an_explicit_generator(path):
    tree = parsed(path)
    aliases = import_aliases(tree)
    roots = {v.split(".")[0] for v in aliases.values()}
    assert "random" not in roots, "the module random has one global state"
    found = [global_draw(n, aliases) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert [f for f in found if f] == []


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
            assert name not in {"torch.load", "torch.save", "eval", "exec", "numpy.save"}, path
            if name == "numpy.load":
                assert any(
                    k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False
                    for k in call.keywords
                ), path


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


def test_modules_say_what_they_are_for_and_what_they_give():
    for path in EVERY_FILE:
        tree = parsed(path)
        assert ast.get_docstring(tree), path
        exports = [
            n
            for n in tree.body
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]).endswith("__all__")
        ]
        defines = any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in tree.body)
        assert exports or not defines, path


@pytest.mark.parametrize("name", public())
def test_public_names_exist_and_explain_themselves(name):
    thing = getattr(dd, name)
    home = __import__(public()[name], fromlist=[name])
    assert thing is getattr(home, name)
    assert name in home.__all__
    assert name in dd.__all__
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    assert thing.__doc__
    first = thing.__doc__.strip().splitlines()[0]
    assert len(first) > 10
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
        "from ddsdk.cli import main\nassert main(['recipes']) == 0",
        "from ddsdk.cli import main\n"
        "try:\n    main(['distill', '--recipe', 'dc', '--help'])\nexcept SystemExit:\n    pass",
        "from ddsdk.cli import main\ntry:\n    main(['distill', '--help'])\nexcept SystemExit:\n    pass",
        "from ddsdk.cli import main\nassert main(['winners']) == 0",
        "from ddsdk.cli import main\nassert main(['distill', '--recipe', 'dccc']) == 2",
    ],
    ids=["import", "recipes", "help", "help without a recipe", "winners", "refusal"],
)
def test_torch_is_not_imported_before_it_is_needed(code):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(code=code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_everything_is_in_the_wheel(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for base in (CORE, INTEGRATIONS):
        for path in base.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert str(path.relative_to(base.parent)) in packed
    assert "ddsdk/py.typed" in packed
    roots = {name.split("/")[0] for name in packed}
    assert {r for r in roots if not r.endswith(".dist-info")} == {"ddsdk", "ddsdk_integrations"}
