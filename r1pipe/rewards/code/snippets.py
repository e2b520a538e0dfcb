"""Reads a snippet of asserts before any program runs: what it takes, what it checks, its code."""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import marshal
import symtable
import sys
import sysconfig
from functools import lru_cache

from r1pipe.rewards.code.inside.test_side import PROGRAM_MODULES, SNIPPET

_OF_FILES = ("open(", "tempfile", "Path", "os.", "shutil")
_CHECK_CALLS = frozenset({"raises", "fail"})


class BadSnippet(ValueError):
    """A snippet that is no test: no Python, checks nothing, or takes nothing from the program."""


@lru_cache(maxsize=20_000)
def compile_snippet(source: str) -> tuple[bytes, tuple[int, ...], tuple[str, ...], bool]:
    """Return code (marshalled), lines of asserts, builtin names it means, whether it uses files.

    In the code every assert reports its condition, so that a failure cannot be swallowed and a
    snippet whose asserts are never reached does not pass. The names: `sum` in
    `assert sum(10, 15) == 6` is the program's, as the snippet takes nothing else from it; a
    snippet that does gets Python's own builtins. Raises BadSnippet.
    """
    try:
        tree = ast.parse(source, SNIPPET)
        taken = _taken(tree, source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadSnippet(f"cannot be read as Python ({error})") from None
    modules = {module for module in _imported(tree) if module in PROGRAM_MODULES}
    known = {*PROGRAM_MODULES, *sys.stdlib_module_names, "pytest"}
    missing = [name for name in sorted(_imported(tree) - known) if not _is_installed(name)]
    if missing:
        raise BadSnippet(f"imports `{missing[0]}`, which the sandbox does not have")
    finder = _Checks()
    tree = ast.fix_missing_locations(finder.visit(tree))
    if not finder.found:
        raise BadSnippet("checks nothing: it has no assert")
    own = {name for name in taken if not hasattr(builtins, name)}
    if not taken and not modules:
        raise BadSnippet("checks nothing: it takes no name from the program")
    shadowed = () if own or modules else tuple(sorted(taken))
    try:
        code = compile(tree, SNIPPET, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadSnippet(f"cannot be read as Python ({error})") from None
    uses_files = any(word in source for word in _OF_FILES)
    return marshal.dumps(code), tuple(finder.lines), shadowed, uses_files


def _taken(tree: ast.Module, source: str) -> set[str]:
    """Return the global names that are read before the snippet binds them, builtins among them."""
    module = symtable.symtable(source, SNIPPET, "exec")
    bound, read, scopes = set(), set(), [module]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        for symbol in scope.get_symbols():
            if scope is not module and not symbol.is_global():
                continue
            if symbol.is_assigned() or symbol.is_imported():
                bound.add(symbol.get_name())
            if symbol.is_referenced():
                read.add(symbol.get_name())
    taken = read - bound | (_read_before_bound(tree) & bound)
    return {name for name in taken if not (name.startswith("__") and name.endswith("__"))}


def _read_before_bound(tree: ast.Module) -> set[str]:
    """Return what a top-level assignment reads on its right before it binds it: `x = x(3)`."""
    found: set[str] = set()
    known: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            names = {node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)}
            targets = {
                node.id
                for target in statement.targets
                for node in ast.walk(target)
                if isinstance(node, ast.Name)
            }
            found |= (names & targets) - known
        known |= {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            known.add(statement.name)
    return found


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - {"__future__", ""}


def _is_installed(name: str) -> bool:
    """Return whether a package is among the installed ones, which the sandbox shows."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return importlib.machinery.PathFinder.find_spec(name, folders) is not None


class _Checks(ast.NodeTransformer):
    """Makes every check report itself to `__held__` or `__looked__`; `is` asks `__same__`."""

    def __init__(self) -> None:
        self.found = False
        self.lines: list[int] = []

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.found = True
        self.lines += range(node.lineno, (node.end_lineno or node.lineno) + 1)
        self.generic_visit(node)
        node.test = _call("__held__", node.test)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.found = True
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        self.found |= name in _CHECK_CALLS
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        raising = any(isinstance(part, ast.Raise) for part in [*node.body, *node.orelse])
        self.generic_visit(node)
        if raising:
            node.test = _call("__looked__", node.test)
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """`try: f(-1); assert False; except ValueError: pass` is right when it gets to `except`."""
        checking = any(
            isinstance(part, (ast.Assert, ast.Raise)) or _is_fail(part)
            for statement in [*node.body, *node.orelse]
            for part in ast.walk(statement)
        )
        self.generic_visit(node)
        if checking:
            for handler in node.handlers:
                looked = ast.Expr(_call("__looked__", ast.Constant(None)))
                handler.body.insert(0, ast.copy_location(looked, handler))
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        if isinstance(node.comparators[0], ast.Constant) or isinstance(node.left, ast.Constant):
            return node
        same: ast.expr = _call("__same__", node.left, node.comparators[0])
        if isinstance(node.ops[0], ast.IsNot):
            same = ast.UnaryOp(ast.Not(), same)
        return ast.copy_location(same, node)


def _is_fail(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "fail"


def _call(name: str, *operands: ast.expr) -> ast.Call:
    made = ast.Call(ast.Name(name, ast.Load()), list(operands), [])
    return ast.copy_location(made, operands[0]) if hasattr(operands[0], "lineno") else made
