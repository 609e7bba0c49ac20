"""What a docstring owes its reader, and which of it is missing.

Every public name has a docstring. Names of the public interface (`INTERFACE`) also say of every parameter and field
what it is: in an entry of `Args:` or `Attributes:`; where there is no such section, by its name in backticks; in a text
that says "arguments as for `other`", by what `other` says of it; and in a method by what the one it overrides says.
What is annotated as an array has axes such as `[M, N]`, or is said to be a number. A function or class whose own body
checks or raises names the error. Whether units and sources are right is for people to judge.
"""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jaxame

INTERFACE = {
    "jaxame",
    "jaxame.baselines",
    "jaxame.cluster",
    "jaxame.data",
    "jaxame.design",
    "jaxame.games",
    "jaxame.hierarchy",
    "jaxame.interop",
    "jaxame.lasso",
    "jaxame.metrics",
    "jaxame.planning",
    "jaxame.plot",
    "jaxame.queries",
    "jaxame.report",
    "jaxame.runs",
    "jaxame.stopping",
    "jaxame.submodels",
    "jaxame.submodels.augment",
}
_TITLES = "Args|Attributes|Returns|Yields|Raises|References|Example|Examples"
_IS_ARRAY = re.compile(r"\b(Array|ndarray|ArrayLike)\b")
_HAS_OWN_AXES = re.compile(r"Callable\[|\b(Float|Int|Bool|UInt8)\[")  # a function, or a type of jaxtyping
_AXES = re.compile(r"\[[^\]]*\]|\b(number|scalar)\b")
_ERROR = re.compile(r"\b\w*(?:Error|Interrupt)\b|[Ee]rrors\b[^.]*\b(?:as for|those of)\b")
_ARGUMENTS_OF = re.compile(r"\b(?:[Aa]rguments|Args)\b[^.]*?\b(?:as for|those of) `(\w+)`")
_AS_IN = re.compile(r"\bas (?:for|in) `(\w+)`")
_CHECKS = re.compile(r"(checks\.)?(require|count|typed_key|probability)$")


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring, whole and by Google sections, and the names that it can refer to."""

    text: str
    scope: dict[str, Any]

    @classmethod
    def of(cls, thing: Any) -> "Docstring":
        """Read the docstring of a function or class."""
        scope = dict(vars(sys.modules[thing.__module__]))
        owner = scope.get(thing.__qualname__.split(".")[0])
        return cls(inspect.getdoc(thing) or "", scope | dict(vars(owner) if inspect.isclass(owner) else {}))

    def section(self, title: str) -> str | None:
        """Return what stands under a title, dedented; None if there is no such section."""
        found = re.search(rf"^{title}:\n(.*?)(?=^(?:{_TITLES}):$|^\S|\Z)", self.text, re.DOTALL | re.MULTILINE)
        return None if found is None else textwrap.dedent(found[1])

    def entries(self) -> dict[str, str]:
        """Return the text of every entry of `Args:` and `Attributes:` by its name."""
        found: dict[str, str] = {}
        for title in ("Args", "Attributes"):
            parts = re.split(r"^(\*{0,2}\w+(?:, \w+)*): ", self.section(title) or "", flags=re.MULTILINE)
            for names, text in zip(parts[1::2], parts[2::2], strict=True):
                found |= dict.fromkeys(names.split(", "), text)
        return found

    def describes(self, name: str) -> str | None:
        """Return what describes a parameter or field, followed to where it says that it is described."""
        entries = self.entries()
        text = entries.get(name)
        if not entries and re.search(rf"`[^`]*\b{re.escape(name.lstrip('*'))}\b[^`]*`", self.text):
            text = self.text
        refers = (_ARGUMENTS_OF if text is None else _AS_IN).search(self.text if text is None else text)
        other = refers and self.scope.get(refers[1])
        further = other and Docstring.of(other).describes(name)
        return text if not further else f"{text or ''}\n{further}"


def modules() -> list[str]:
    """Return the names of the public modules of the package."""
    names = [module.name for module in pkgutil.walk_packages(jaxame.__path__, "jaxame.")]
    return ["jaxame", *(name for name in names if not any(part.startswith("_") for part in name.split(".")))]


def public_names(module: ModuleType) -> dict[str, Any]:
    """Return the functions and classes that a module offers: those of `__all__`, or those defined in it."""
    offered = vars(module)
    if hasattr(module, "__all__"):
        offered = {name: getattr(module, name) for name in module.__all__}
    else:
        offered = {n: thing for n, thing in offered.items() if getattr(thing, "__module__", "") == module.__name__}
    functions = {name: thing for name, thing in offered.items() if inspect.isfunction(inspect.unwrap(thing))}
    classes = {name: thing for name, thing in offered.items() if isinstance(thing, type)}
    return {name: thing for name, thing in (functions | classes).items() if not name.startswith("_")}


def defects(name: str, strict: bool) -> list[str]:
    """Return what is missing in the docstrings of a module, one line each."""
    module = importlib.import_module(name)
    found = [] if inspect.getdoc(module) else [": no docstring"]
    for own, thing in public_names(module).items():
        of_thing = _of_class(thing, strict) if inspect.isclass(thing) else _of_function([thing], strict)
        found += [f".{own}{defect}" for defect in of_thing]
    return [name + defect for defect in found]


def _of_function(functions: Sequence[Callable[..., Any]], strict: bool) -> Iterator[str]:
    """Look at a function, or at a method followed by those that it overrides."""
    docs, function = [Docstring.of(each) for each in functions if each.__doc__], inspect.unwrap(functions[0])
    if not docs:
        yield ": no docstring"
    elif strict:
        signature = inspect.signature(function)
        yield from _undescribed(docs, _parameters(signature))
        axes = (_AXES.search(doc.section("Returns") or doc.text) for doc in docs)
        if _needs_axes(signature.return_annotation) and not any(axes):
            yield ": no axes of what it returns"
        yield from _unnamed_errors(docs, function)


def _of_class(cls: type, strict: bool) -> Iterator[str]:
    doc = Docstring.of(cls)
    if not cls.__doc__ or (dataclasses.is_dataclass(cls) and doc.text.startswith(f"{cls.__name__}(")):
        yield ": no docstring"
    elif strict and not issubclass(cls, enum.Enum):
        yield from _undescribed([doc], _fields(cls))
        for constructor in (vars(cls).get(name) for name in ("__init__", "__post_init__")):
            if getattr(constructor, "__module__", None) == cls.__module__:
                yield from _unnamed_errors([doc], constructor)
    package = cls.__module__.split(".")[0]
    line = [vars(base) for base in cls.__mro__ if base.__module__.split(".")[0] == package]
    for name in dict.fromkeys(name for own in line for name in own if not name.startswith("_") or name == "__call__"):
        versions = [_function(own[name]) for own in line if name in own]
        versions = [each for each in versions if inspect.isfunction(inspect.unwrap(each))]
        if versions:
            yield from (f".{name}{defect}" for defect in _of_function(versions, strict))


def _function(member: Any) -> Any:
    """The function behind a property, a static method or a class method."""
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def _fields(cls: type) -> dict[str, Any]:
    """Return what a class is made of by name: fields, or parameters of its constructor."""
    if "__dataclass_fields__" in vars(cls):
        fields = {field.name: field.type for field in dataclasses.fields(cls) if field.init}
    elif hasattr(cls, "_fields") or hasattr(cls, "__total__"):  # a named tuple, a typed dictionary
        fields = inspect.get_annotations(cls)
    elif "__init__" in vars(cls) and cls.__init__.__module__ == cls.__module__:
        fields = _parameters(inspect.signature(cls.__init__))
    else:
        fields = {}
    return {name: kind for name, kind in fields.items() if not name.startswith("_")}


def _parameters(signature: inspect.Signature) -> dict[str, Any]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    named = {stars.get(each.kind, "") + name: each.annotation for name, each in signature.parameters.items()}
    return {name: kind for name, kind in named.items() if name not in ("self", "cls")}


def _needs_axes(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return bool(_IS_ARRAY.search(text)) and not _HAS_OWN_AXES.search(text)


def _undescribed(docs: Sequence[Docstring], parameters: dict[str, Any]) -> Iterator[str]:
    for name, annotation in parameters.items():
        texts = [text for doc in docs if (text := doc.describes(name)) is not None]
        if not texts:
            yield f": {name} is not described"
        elif _needs_axes(annotation) and not name.endswith("key") and not any(map(_AXES.search, texts)):
            yield f": no axes of {name}"


def _unnamed_errors(docs: Sequence[Docstring], function: Any) -> Iterator[str]:
    named = (doc.section("Raises") or (not doc.entries() and _ERROR.search(doc.text)) for doc in docs)
    if _raises(function) and not any(named):
        yield ": its errors are not named"


def _raises(function: Any) -> bool:
    """Whether the body itself raises or checks; what it calls is not looked into."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # made by a decorator, as the constructor of a dataclass is
        return False
    calls = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(map(_CHECKS.match, calls))
