"""Local stand-ins for the objects, classes and exceptions of the other side of a channel.

What keeps a verdict honest: no operator that could compare a value of the tests with an object of
the program is ever carried out by the program. `==` and `!=` with plain data are decided here, on
the content that a subclass of a builtin really holds. Arithmetic, order and `in` go to the program
only between its own objects, or where the tests themselves made the object from a class they call
by a capitalised name (`Vector(1, 2) * 3`): what a function or a method merely returned may be
anything, and `f(2) - 1.41` must not be asked of it.
"""

from __future__ import annotations

from . import asking, values
from .asking import ask, call, fetch
from .operators import FREE, GUARDED, PREDICATES
from .wire import Broken

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .peer import Peer

_REF, _CLASS_REF, _TRUSTED = "_remote_ref_", "_remote_class_ref_", "_remote_trusted_"


def ref_of(value: Any) -> int | None:
    """Return the other side's number of a stand-in, None for everything else."""
    if isinstance(value, RemoteClass):
        return type.__getattribute__(value, _CLASS_REF)
    if type(type(value)) is RemoteClass:
        return object.__getattribute__(value, _REF)
    return None


def is_trusted(value: Any) -> bool:
    """Return whether the tests made this object themselves."""
    return type(type(value)) is RemoteClass and object.__getattribute__(value, _TRUSTED)


_OF_CLASS_STATEMENTS = ("__module__", "__qualname__", "__annotations__", "__doc__")


class RemoteClass(type):
    """A class of the other side: calling it makes an object there."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = call(cls, args, kwargs)
        if type.__getattribute__(cls, _TRUSTED) and type(type(made)) is RemoteClass:
            return trusted(made)
        return made

    def __getattr__(cls, name: str) -> Any:
        return fetch("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        ask("setattr", cls, name, value)

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls.__subclasscheck__(type(instance))

    def __subclasscheck__(cls, other: type) -> bool:
        number = ref_of(cls)
        return any(
            isinstance(base, RemoteClass) and ref_of(base) == number for base in other.__mro__
        )

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, RemoteClass) and ref_of(cls) == ref_of(other)

    def __hash__(cls) -> int:
        return hash((RemoteClass, ref_of(cls)))

    def __bool__(cls) -> bool:
        return True

    def __iter__(cls) -> Any:
        return iter(ask("list", cls))

    def __len__(cls) -> int:
        return len(ask("list", cls))

    def __contains__(cls, item: Any) -> bool:
        return any(item is member or item == member for member in cls)

    def __getitem__(cls, key: Any) -> Any:
        return ask("operate", "__getitem__", cls, key)

    def __new__(
        mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any
    ) -> Any:
        """A class of a snippet with a base of the program: made there, its methods stay here."""
        cell = body.pop("__classcell__", None)
        bare = {key: value for key, value in body.items() if key not in _OF_CLASS_STATEMENTS}
        made = ask("subclass", name, list(bases), bare)
        if cell is not None:
            cell.cell_contents = made
        return made


class _Remote:
    """What all stand-ins share; every other attribute is the other side's."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Only ever called as `super().__init__()`, by a method of a snippet's own class."""
        ask("super_init", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in PREDICATES and not is_trusted(self):
            raise AttributeError(f"{name} of an object that is no plain value")
        return fetch("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") and isinstance(self, BaseException):  # what `raise` sets
            object.__setattr__(self, name, value)
        else:
            ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        ask("delattr", self, name)

    def __repr__(self) -> str:
        return _text(ask("repr", self))

    def __str__(self) -> str:
        return _text(ask("str", self))

    def __dir__(self) -> list[str]:
        return ask("dir", self)

    def __copy__(self) -> Any:
        return ask("copy", self, False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return ask("copy", self, True)


def _text(value: Any) -> str:
    return str.__str__(value) if isinstance(value, str) else "?"


def _is_object(value: Any) -> bool:
    return type(type(value)) is RemoteClass


is_final: Callable[[Any], bool] = lambda traceback: False  # noqa: E731
"""Whether an object of the other side may not swallow an exception; set by the tests' side."""


_twins: dict[int | None, Any] = {}


def trusted(handle: Any) -> Any:
    """Return the stand-in of the same object that the tests made themselves."""
    ref = ref_of(handle)
    if ref in _twins:
        return _twins[ref]
    twin = type(handle).__new__(type(handle), *_content_of(handle))
    for name, value in ((_REF, ref), (_TRUSTED, True)):
        object.__setattr__(twin, name, value)
    _twins[ref] = twin
    return twin


def _content_of(handle: Any) -> tuple[Any, ...]:
    if isinstance(handle, BaseException):
        return handle.args
    held = values.content(handle, mutable=False)
    return () if held is None else (held,)


def _operator(name: str) -> Callable[..., Any]:
    """An operator that is safe to ask of the program: its operands are no expected values."""

    def operate(self: Any, *operands: Any, **named: Any) -> Any:
        if name == "__call__":
            return call(self, operands, named)
        if name == "__exit__":
            if is_final(operands[2]):
                ask("operate", name, self, None, None, None)
                return False
            operands = (*operands[:2], None)
        result = ask("operate", name, self, *operands)
        if name in ("__iter__", "__enter__") and ref_of(result) == ref_of(self):
            return self
        unary = name in ("__neg__", "__pos__", "__abs__", "__invert__")
        return trusted(result) if unary and is_trusted(self) and _is_object(result) else result

    operate.__name__ = name
    return operate


def _guarded_operator(name: str) -> Callable[..., Any]:
    """An operator whose other operand may be what the tests expect (see the module)."""

    def operate(self: Any, other: Any, *more: Any) -> Any:
        comparing = name in ("__eq__", "__ne__")
        lent = ref_of(other) is not None
        if comparing and lent and is_trusted(other) and not is_trusted(self):
            return _compare_by(name, other, self)
        drawn = name == "__contains__" and not is_trusted(self) and hasattr(self, "__iter__")
        if (lent and not drawn) or (is_trusted(self) and not comparing):
            result = ask("operate", name, self, other, *more)
            ours = is_trusted(self) and (is_trusted(other) or not lent)
            return trusted(result) if ours and _is_object(result) else result
        if type.__getattribute__(type(self), "_remote_held_"):
            held = ask("content", self)
            if type(held) not in values.MUTABLE:
                raise Broken("content that is none")
            method = getattr(type(held), name, None)
            return method(held, other, *more) if method else NotImplemented
        if name == "__contains__":
            return any(item is other or item == other for item in self)
        return NotImplemented

    operate.__name__ = name
    return operate


def _compare_by(name: str, ours: Any, theirs: Any) -> Any:
    """Compare by the `==` of the object that the tests made, not of the one that was returned."""
    if not hasattr(type(ours), name) or type(ours).__eq__ is _same:
        return NotImplemented
    result = ask("operate", name, ours, theirs)
    return name == "__ne__" if result is NotImplemented else result


def _same(self: Any, other: Any) -> Any:
    return ref_of(self) == ref_of(other) if ref_of(other) is not None else NotImplemented


def _unequal(self: Any, other: Any) -> Any:
    return ref_of(self) != ref_of(other) if ref_of(other) is not None else NotImplemented


def _hash_by_number(self: Any) -> int:
    return hash((RemoteClass, ref_of(self)))


def _hash_by_asking(self: Any) -> int:
    return hash(int(ask("hash", self)))


def _attribute(name: str) -> property:
    return property(lambda self: fetch("getattr", self, name))


class Stands:
    """Makes the stand-ins of one channel, one for each object, so that `is` holds."""

    def __init__(self, peer: Peer, trust: bool = False) -> None:
        """`trust`: every object of the other side may be operated on with plain data."""
        asking.connect(peer)
        self._trust = trust
        self.ref_of = ref_of
        self._classes: dict[tuple[int, bool], type] = {}
        self._objects: dict[int, Any] = {}
        self._sorts: dict[int, str] = {}

    def class_(self, ref: int, trusted: bool = False) -> type:
        """Return the class; `trusted`: as the tests call it by a capitalised name."""
        if (ref, trusted) not in self._classes:
            plain = self.class_(ref) if trusted else None
            error = plain is not None and issubclass(plain, BaseException)
            # `except` knows nothing of `__subclasscheck__`: an exception has one class here.
            self._classes[ref, trusted] = plain if plain and error else self._build(ref, trusted)
        return self._classes[ref, trusted]

    def object(self, ref: int, class_ref: int) -> Any:
        if ref not in self._objects:
            kind = self.class_(class_ref)
            made = _blank(kind, self._trust, ref)
            if self._sorts.get(class_ref) == "generator":
                made = _draw(made)
            elif self._sorts.get(class_ref) == "coroutine":
                made = _run(made)
            self._objects[ref] = made
        return self._objects[ref]

    def subclass(self, ref: int, class_ref: int, content: Any) -> Any:
        kind = self.class_(class_ref)
        if type(content) not in values.IMMUTABLE or not issubclass(kind, type(content)):
            raise Broken("content of another type")
        return self._objects.setdefault(ref, _blank(kind, self._trust, ref, content))

    def error(self, ref: int, class_ref: int, parts: Any) -> Any:
        kind = self.class_(class_ref)
        if not issubclass(kind, BaseException) or type(parts) is not tuple or len(parts) != 2:
            raise Broken("an exception that is none")
        made = self._objects.setdefault(ref, _blank(kind, self._trust, ref, *parts[0]))
        if isinstance(parts[1], BaseException):
            object.__setattr__(made, "__cause__", parts[1])
        return made

    def _build(self, ref: int, trusted: bool) -> type:
        described = asking.peer().ask("class", ref)
        try:
            name, module, bases, found, hashable, held, sort = described
            self._sorts[ref] = str(sort)
            namespace = _namespace(set(found), hashable is True)
            ours = [base for base in bases if isinstance(base, RemoteClass)]
            real = [base for base in bases if base in values.IMMUTABLE or _is_error(base)]
            if any(base in values.IMMUTABLE for kind in (*ours, *real) for base in kind.__mro__):
                namespace = {}  # its content is here: so are its operators
            namespace |= {_CLASS_REF: ref, _TRUSTED: trusted, "_remote_held_": str(held)}
            namespace["__module__"] = str(module)
            return _type(str(name), [*ours, *real], namespace)
        except (TypeError, ValueError) as error:
            raise Broken(f"a class that is none ({error})") from None


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _type(name: str, bases: list[type], namespace: dict[str, Any]) -> type:
    ours = [base for base in bases if isinstance(base, RemoteClass)]
    real = [base for base in bases if not isinstance(base, RemoteClass)]
    for chosen in ((*ours, _Remote, *real), (_Remote, *real), (_Remote,)):
        unique = tuple(dict.fromkeys(chosen))
        try:
            return type.__new__(RemoteClass, name, unique, dict(namespace))
        except TypeError:  # an order of bases that these cannot have
            continue
    raise Broken("a class that cannot be")


def _namespace(found: set[str], hashable: bool) -> dict[str, Any]:
    own = [name for name in GUARDED if name in found]
    namespace: dict[str, Any] = {name: _guarded_operator(name) for name in own}
    namespace |= {name: _operator(name) for name in FREE if name in found}
    if "__iter__" in found or "__getitem__" in found:
        namespace.setdefault("__contains__", _guarded_operator("__contains__"))
    for name, decide in (("__eq__", _same), ("__ne__", _unequal)):
        if "__eq__" not in found:
            namespace[name] = decide
    by = _hash_by_asking if "__eq__" in found else _hash_by_number
    namespace["__hash__"] = by if hashable else None
    namespace["__doc__"], namespace["__dict__"] = _attribute("__doc__"), _attribute("__dict__")
    return namespace


def _blank(kind: type, trust: bool, ref: int, *content: Any) -> Any:
    made = kind.__new__(kind, *content)
    if isinstance(made, BaseException):
        object.__setattr__(made, "args", content)
    object.__setattr__(made, _REF, ref)
    object.__setattr__(made, _TRUSTED, trust)
    return made


def _draw(handle: Any) -> Any:
    """A real generator that draws from the other side's."""
    try:
        item = ask("operate", "__next__", handle)
        while True:
            sent = yield item
            item = ask("send", handle, sent)
    except StopIteration as stop:
        return stop.value


async def _run(handle: Any) -> Any:
    """A real coroutine whose body runs on the other side."""
    return ask("run", handle)
