"""The rules of docs/house.md, read from the source: who may import whom, how long things may be, what loads torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sotediffusion"
FLOORS = [
    {"models", "diffusion", "text", "types", "config", "buckets", "limits", "names", "knock"},
    {"weights", "safety", "pictures"},
    {"generate", "conditioning", "offload", "curate", "miniature"},
    {"train", "serve", "publish", "pipelines"},
    {"cli"},
]
ROOT = "sotediffusion"  # the package itself: the version and lazy names
TORCH_FREE = {"text", "pictures", "types", "config", "buckets", "limits", "names", "knock", "safety"}
STRANGERS = [("train", "serve"), ("serve", "train"), ("serve", "curate"),
             ("curate", "models"), ("curate", "diffusion"), ("curate", "weights"), ("curate", "generate")]  # fmt: skip
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "core"}

TRAINING_LOOP = ("sotediffusion.train.loop", "train")  # may be one long headed function
DIFFUSERS = {"__call__", "encode_prompt", "from_pretrained"}  # have the arguments that diffusers documents


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ROOT


def floor(name: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS, 1) if name in rooms), 0)


def imported(path: Path, nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of the modules that import statements name; `from room import file` names the file."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                found.add(f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source)
    return found


@cache
def all_imports(path: Path) -> set[str]:
    return imported(path, ast.walk(tree(path)))


def imports_at_start(path: Path) -> set[str]:
    """Those that run when the module is imported: not the ones inside functions."""

    def outside(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from outside(child)

    return imported(path, outside(tree(path)))


def edges() -> list[tuple[str, str]]:
    """Which module of ours imports which, anywhere in its source."""
    return [(module, name) for module, path in MODULES.items() for name in sorted(all_imports(path)) if is_ours(name)]


def is_ours(name: str) -> bool:
    return name.split(".")[0] == ROOT


def foreign(path: Path) -> set[str]:
    return {name.split(".")[0] for name in all_imports(path)} - {ROOT}


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(module, node) for module, path in MODULES.items() for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def test_imports_go_down_or_sideways_never_up():
    homeless = {room(module) for module in MODULES} - set().union(*FLOORS) - {ROOT}
    assert not homeless, "give it a floor in docs/house.md and here"
    upward = [f"{module} imports {name}" for module, name in edges() if room(module) != ROOT and room(name) != ROOT
              and floor(room(name)) > floor(room(module))]  # fmt: skip
    assert not upward


def test_models_and_diffusion_know_torch_and_nothing_of_ours():
    assert not [edge for edge in edges() if room(edge[0]) in ("models", "diffusion") and room(edge[1]) != room(edge[0])]


def test_rooms_that_must_not_know_each_other_do_not():
    assert not [edge for edge in edges() if (room(edge[0]), room(edge[1])) in STRANGERS]


def test_rooms_without_torch_do_not_import_it():
    free = {module: path for module, path in MODULES.items() if room(module) in TORCH_FREE}
    assert not [module for module, path in free.items() if foreign(path) & {"torch", "torchvision"}]


def test_click_is_known_to_the_cli_only():
    assert not [module for module, path in MODULES.items() if room(module) != "cli" and "click" in foreign(path)]


def test_nothing_imports_itself_round_a_circle():
    graph = {module: {n for n in imports_at_start(path) if n in MODULES and n != module} for module, path in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                walk(other, (*trail, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_rooms_do_not_lean_on_each_other_in_circles():
    graph: dict[str, set[str]] = {}
    for module, name in edges():
        graph.setdefault(room(module), set()).update({room(name)} - {room(module), ROOT})
    for one, others in graph.items():
        for other in others:
            assert one not in graph.get(other, set()), f"{one} and {other} import each other"


def test_no_room_is_a_drawer_for_odds_and_ends():
    assert not [module for module in MODULES if NO_NAMES & set(module.split("."))]


def test_only_the_cli_prints_exits_and_reads_the_environment():
    calls = {"print", "exit", "sys.exit", "os.getenv"}
    found = []
    for module, path in MODULES.items():
        if room(module) == "cli":
            continue
        for node in ast.walk(tree(path)):
            if (isinstance(node, ast.Call) and ast.unparse(node.func) in calls) or (
                isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "sys.argv")
            ):
                found.append(f"{module}:{node.lineno}")
    assert not found


def test_files_stay_short():
    assert not [module for module, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 450]


def test_functions_stay_short():
    long = [(module, f.name, lines) for module, f in functions() if (lines := f.end_lineno - f.lineno + 1) > 60]
    assert not [entry for entry in long if entry[:2] != TRAINING_LOOP]


def test_functions_take_few_parameters():
    found = []
    for module, function in functions():
        command = room(module) == "cli" and any("command" in ast.unparse(d) for d in function.decorator_list)
        diffusers = room(module) == "pipelines" and function.name in DIFFUSERS
        arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
        if count > 7 and not command and not diffusers:
            found.append((module, function.name, count))
    assert not found


def test_every_module_says_what_it_is_for():
    assert not [module for module, path in MODULES.items() if tree(path).body and not ast.get_docstring(tree(path))]


@pytest.mark.parametrize(
    "statement",
    [
        "import sotediffusion",
        "import sotediffusion.types, sotediffusion.config, sotediffusion.buckets, sotediffusion.limits, sotediffusion.names",
        "import sotediffusion.safety.rating, sotediffusion.safety.policy, sotediffusion.safety.provenance",
        "import sotediffusion.pictures.files, sotediffusion.pictures.decode, sotediffusion.pictures.infotext",
        "from sotediffusion.cli.main import sote; sote.main(['--help'], standalone_mode=False)",
        "from sotediffusion.cli.main import sote; sote.main(['generate', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_here_loads_torch(statement):
    code = f"{statement}\nimport sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=PACKAGE.parent).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="counts a child's time as POSIX does")
def test_help_is_there_in_less_than_half_a_second():
    """Of a processor's time, so that others at work beside it do not count; the quickest of three, as files may be cold."""
    import resource

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        done = subprocess.run([sys.executable, "-m", "sotediffusion.cli.main", "--help"], capture_output=True, cwd=PACKAGE.parent)
        times.append(spent() - before)
        assert done.returncode == 0 and b"generate" in done.stdout
    assert min(times) < 0.5


def test_the_rules_see_what_they_forbid():
    """A relative import and one inside a function are read like any other."""
    source = "from ..train import loop\ndef late():\n    from sotediffusion.serve import app\n"
    path = PACKAGE / "models" / "made_up.py"
    nodes = list(ast.walk(ast.parse(source)))
    assert imported(path, iter(nodes)) >= {"sotediffusion.serve.app"}
    assert {room(name) for name in imported(path, iter(nodes))} == {"train", "serve"}
