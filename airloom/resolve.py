"""From text to objects: methods and scenarios by name, file or module, and their fields by name.

A method is `fedavg`, `file.py`, `file.py:Class` or `module:Class`, with fields of its own behind a colon (`fedavg:lr=0.1,select=oort`). A scenario is
`phones`, `file.py`, `file.py:function`, `module:function` or `file.json`. Nothing heavy is imported before something is looked up.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from airloom.errors import AirloomError, ScenarioError
from airloom.parts import named
from airloom.parts.codec import codec
from airloom.parts.protect import protection

if TYPE_CHECKING:
    from airloom.program.method import Method, Range, Service
    from airloom.scenarios.scenario import Scenario

METHOD_ROOMS = ("methods", "serving")  # where a method's or service's name is looked for
PART_ROOMS = ("security",)  # where a part's name is looked for beside those that its socket knows
NOT_SCENARIOS = ("fleet", "scenario")  # modules of airloom.scenarios that hold no scenario
NEEDED: Any = inspect.Parameter.empty  # marks a field without default
_WHERE = re.compile(r"(?P<place>(?:[A-Za-z]:)?[^:]*\.py|[^:]*)(?::(?P<thing>[A-Za-z_]\w*)(?=:|$))?(?::(?P<fields>.*))?", re.DOTALL)


_SOCKETS: Mapping[str, Callable[[str], Any]] = {"codec": codec, "protect": protection}  # of `Method` itself, whose room knows no parts

# --- fields ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Field:
    """What may be set by name: a field of a method or of a task's settings, or an argument of a scenario function.

    Arguments:
        name, type, default: as declared; `NEEDED` marks a field without default.
        make: reads a part from text, or None.
        range: allowed numbers and what `--tune` tries, or None.
    """

    name: str
    type: Any
    default: Any = NEEDED
    make: Callable[[str], Any] | None = None
    range: Range | None = None


def fields_of(thing: Callable[..., Any]) -> dict[str, Field]:
    """Return what a frozen dataclass or a function takes by name.

    >>> def world(*, seed: int, devices: int = 40): ...
    >>> [(f.name, f.type, f.default) for f in fields_of(world).values()][1]
    ('devices', <class 'int'>, 40)
    """
    try:
        hints = typing.get_type_hints(thing)
    except Exception:  # names that only a type checker imports
        hints = {}
    if isinstance(thing, type) and is_dataclass(thing):
        found: dict[str, Field] = {}
        for f in fields(thing):
            if f.init:
                default = f.default_factory() if f.default_factory is not MISSING else f.default
                make, allowed = f.metadata.get("make") or _SOCKETS.get(f.metadata.get("socket", "")), f.metadata.get("range")
                default = NEEDED if default is MISSING else default
                found[f.name] = Field(name=f.name, type=hints.get(f.name, Any), default=default, make=make, range=allowed)
        return found
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        p.name: Field(name=p.name, type=hints.get(p.name, Any), default=p.default)
        for p in inspect.signature(thing).parameters.values()
        if p.kind in by_name
    }


def settle(owner: str, known: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values in the types of their fields.

    Arguments:
        owner: whose fields they are; opens the error message.
        known: the fields there are.
        given: values, or their text.

    Raises:
        ScenarioError: an unknown field, or a value that its field cannot take.
    """
    for name in given:
        if name not in known:
            raise ScenarioError(f"{owner}.{name}: there is no such field; {_one_of(name, known)}")
    return {name: convert(f"{owner}.{name}", known[name], value) for name, value in given.items()}


def _part_of_a_room(field: Field, text: str) -> Any:
    """Return the part that a text describes where a room below `parts` has a module of its name with a class for this field, else None."""
    name = text.partition("(")[0].strip()
    room = next((room for room in PART_ROOMS if name in names_in(room)), None)
    if room is None or not isinstance(field.type, type):
        return None
    module = load_module(f"airloom.{room}.{name}")
    fit = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, field.type) and c.__module__ == module.__name__]
    return named.make(field.name, {name: fit[0]}, text) if fit else None


def convert(where: str, field: Field, value: Any) -> Any:
    """Return a value in the type of its field; `where` opens the error message.

    >>> convert("fedavg.lr", Field(name="lr", type=float), "1e-2")
    0.01
    """
    if field.make is not None and isinstance(value, str):
        return _part_of_a_room(field, value) or field.make(value)
    try:
        return _fit(value, field.type)
    except (ValueError, OverflowError):
        raise ScenarioError(f"{where}: got {value!r}; allowed is {type_text(field.type)}") from None


def type_text(wanted: Any) -> str:
    """Return what a type allows, for people.

    >>> type_text(int | None), type_text(Literal["a", "b"])
    ('an integer or none', 'a or b')
    """
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "none", Any: "any value"}
    if wanted in plain:
        return plain[wanted]
    members = _members(wanted)
    if members:
        return " or ".join(type_text(member) for member in members)
    if typing.get_origin(wanted) is Literal:
        return " or ".join(str(option) for option in typing.get_args(wanted))
    return (
        wanted.__name__
        if isinstance(wanted, type) and not typing.get_args(wanted)
        else str(wanted).replace("typing.", "").replace("collections.abc.", "")
    )


def _members(wanted: Any) -> tuple[Any, ...]:
    """Return the members of a union; () for other types."""
    return typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else ()


def _fit(value: Any, wanted: Any) -> Any:
    """Return the value in the wanted type, or raise ValueError."""
    text = value.strip() if isinstance(value, str) else None
    members, origin = _members(wanted), typing.get_origin(wanted)
    if members:
        for member in sorted(members, key=lambda member: (member is str, is_dataclass(member))):  # anything is text
            try:
                return _fit(value, member)
            except ValueError:
                continue
        raise ValueError
    if wanted is Any:
        return value if text is None else _literal(text, otherwise=text)
    if wanted is type(None):
        return _need(value is None or (text or "").lower() in ("none", "null"), None)
    if wanted is bool:
        return value if isinstance(value, bool) else _need((text or "").lower() in ("true", "false"), (text or "").lower() == "true")
    if wanted in (int, float):
        return _number(value if text is None else text, wanted)
    if wanted is str:
        return _need(text is not None, value[1:-1] if text and text == value and re.fullmatch(r"(['\"]).*\1", text) else value)
    if origin is Literal:
        for option in typing.get_args(wanted):
            if value == option or text == str(option):
                return option
        raise ValueError
    if origin in (tuple, list, AbstractSequence):
        return _sequence(_literal(text) if text is not None else value, origin, typing.get_args(wanted))
    if origin in (dict, AbstractMapping):
        found = _literal(text) if text is not None else value
        return _need(isinstance(found, Mapping), found)
    if not isinstance(wanted, type):
        return value
    if text is not None and is_dataclass(wanted) and text.lower() not in ("none", "null"):
        return named.make(wanted.__name__, {wanted.__name__: wanted, wanted.__name__.lower(): wanted}, text)
    return _need(isinstance(value, wanted), value)


def _need(is_good: bool, value: Any) -> Any:
    """Return the value, or raise ValueError."""
    if not is_good:
        raise ValueError
    return value


def _literal(text: str, *, otherwise: Any = NEEDED) -> Any:
    """Return a Python literal, or `otherwise`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if otherwise is NEEDED:
            raise ValueError from None
        return otherwise


def _number(value: Any, wanted: type) -> float | int:
    """Return an int or float; whole numbers such as 1e6 are ints, and NaN is no number."""
    _need(isinstance(value, str | Real) and not isinstance(value, bool), None)
    number: Any = float(value)
    if wanted is float:
        return _need(number == number, number)
    _need(number.is_integer(), None)
    is_exact = not isinstance(value, str) or value.lstrip("+-").isdecimal()  # a float has no more than 53 bits
    whole: Any = value if is_exact else number
    return int(whole)


def _sequence(value: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a tuple (a list where the type says so) with converted items."""
    if not isinstance(value, list | tuple):
        raise ValueError
    is_fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if is_fixed and len(value) != len(arguments):
        raise ValueError
    kinds = arguments if is_fixed else (arguments[0] if arguments else Any,) * len(value)
    items = [_fit(item, kind) for item, kind in zip(value, kinds)]
    return items if origin is list else tuple(items)


def _one_of(name: str, known: Iterable[str]) -> str:
    """Return `allowed are ...`, with the closest one."""
    allowed = list(known)
    close = difflib.get_close_matches(name, allowed, n=1)
    listed = f"allowed are {', '.join(allowed)}" if allowed else "it has none"
    return f"did you mean {close[0]}? {listed}" if close else listed


def pairs(text: str) -> dict[str, str]:
    """Split `a=1,b=part(c=2, d=3)` at the commas outside of brackets and quotes.

    >>> pairs("lr=0.1,select=power_of_choice(candidates=20, x='a,b')")
    {'lr': '0.1', 'select': "power_of_choice(candidates=20, x='a,b')"}
    """
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if character == "," and depth == 0 and not quote:
            pieces.append("")
        else:
            pieces[-1] += character
    if depth or quote:
        raise ScenarioError(f"fields {text!r}: a bracket or quote is open; write name=value,name=part(field=value)")
    return dict(pair(piece) for piece in pieces)


def pair(text: str) -> tuple[str, str]:
    """Split `name=value`.

    >>> pair("task.alpha=0.1")
    ('task.alpha', '0.1')
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\s*[A-Za-z_][\w.]*\s*", name):
        raise ScenarioError(f"field {text!r}: got no name=value; write for example lr=0.1, scenario.devices=20 or task.alpha=0.1")
    return name.strip(), value.strip()


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Fields by whom they are for, from names such as `lr`, `scenario.devices` and `task.alpha`."""

    method: Mapping[str, Any]
    scenario: Mapping[str, Any]
    task: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Sets:
        """Sort fields by their prefix.

        >>> Sets.of({"lr": 0.1, "task.alpha": 0.3}).task
        {'alpha': 0.3}
        """
        sorted_: dict[str, dict[str, Any]] = {"method": {}, "scenario": {}, "task": {}}
        for name, value in (given or {}).items():
            prefix, dot, rest = name.partition(".")
            if prefix in ("link", "device") and dot:  # changes of the network that the scenario makes, see airloom.network.scale
                sorted_["scenario"][name] = value
                continue
            if dot and prefix not in sorted_:
                raise ScenarioError(
                    f"set {name}={value!r}: got the prefix '{prefix}'; allowed are field, scenario.field, task.field, link.field and device.field"
                )
            sorted_[prefix if dot else "method"][rest if dot else name] = value
        return cls(**sorted_)


# --- values that travel in records and to other processes ----------------------------------------------------------------------------


class Unpackable(ValueError):
    """A value that only this process knows."""


def pack(value: Any) -> Any:
    """Return a value as JSON that `unpack` turns back into the same value.

    >>> unpack(pack({"a": (1, 2.5)}))
    {'a': (1, 2.5)}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [pack(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: pack(item) for key, item in value.items()}}
    kind = type(value)
    if is_dataclass(value) and kind.__module__ != "__main__" and "<" not in kind.__qualname__:
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": {f.name: pack(getattr(value, f.name)) for f in fields(value) if f.init}}
    raise Unpackable(f"{value!r}")


def unpack(value: Any) -> Any:
    """Return what was packed. Classes are taken from airloom and from modules that are loaded already; nothing else is imported."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(unpack(item) for item in value["tuple"])
    if "mapping" in value:
        return {key: unpack(item) for key, item in value["mapping"].items()}
    module, _, name = str(value.get("class")).partition(":")
    thing: Any = importlib.import_module(module) if module.startswith("airloom.") else sys.modules.get(module)
    for part in name.split("."):
        thing = getattr(thing, part, None)
    if not (isinstance(thing, type) and is_dataclass(thing)):
        raise ScenarioError(f"value {value!r}: got no class that this version knows; use the version and the files that wrote it")
    return thing(**{key: unpack(item) for key, item in value["fields"].items()})


# --- modules --------------------------------------------------------------------------------------------------------------------------


def names_in(room: str) -> list[str]:
    """Return the modules of a room (`methods`, `scenarios`) by name; imports none of them.

    >>> "fedavg" in names_in("methods")
    True
    """
    path = [str(Path(__file__).parent / room)]
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_") and m.name not in NOT_SCENARIOS)


def methods_there_are() -> list[str]:
    """Return the modules that hold a method or a service; imports them all."""
    loaded = {name: load_module(f"airloom.{room}.{name}") for room in METHOD_ROOMS for name in names_in(room)}
    return [name for name, module in loaded.items() if any(_is_method(thing, module) for thing in vars(module).values())]


def load_module(place: str) -> ModuleType:
    """Return the module of a Python file or of a dotted name.

    A file is read anew when its text has changed, and its folder is added to the places that imports are looked for.

    Raises:
        ScenarioError: it is not there, does not parse, or fails while it is loaded.
    """
    if not place.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ScenarioError(f"module '{place}': {error}; give a module that Python finds from here, or file.py") from error
        except Exception as error:
            raise ScenarioError(f"module '{place}': {type(error).__name__}: {error}{line_of(error)}; correct the module") from error
    path = Path(place).expanduser().resolve()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"file '{place}': cannot be read ({getattr(error, 'strerror', None) or error}); check the path") from error
    # the name tells files of one name in two folders apart, and is the same in every process
    name = f"airloom_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    known = sys.modules.get(name)
    if known is not None and vars(known).get("__airloom_text__") == text:
        return known
    module = ModuleType(name)
    vars(module).update(__file__=str(path), __airloom_text__=text)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        sys.modules.pop(name)
        raise ScenarioError(f"file '{place}', line {error.lineno}: {error.msg}; correct the file") from error
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if isinstance(error, AirloomError):
            raise
        raise ScenarioError(f"file '{place}': {type(error).__name__}: {error}{line_of(error)}; correct the file") from error
    return module


def line_of(error: BaseException) -> str:
    """Return where an error (or what caused it) was raised, as ` [file.py:12]`, unless that is inside of airloom or of a library."""
    while error.__cause__ is not None:
        error = error.__cause__
    own, found, trace = Path(__file__).parent, "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "site-packages" not in file.parts and own not in file.parents and not str(file).startswith("<") and sys.prefix not in str(file):
            found = f" [{file.name}:{trace.tb_lineno}]"
        trace = trace.tb_next
    return found


def _split(text: str) -> tuple[str, str | None, str | None]:
    """Split `place[:thing][:fields]`."""
    match = _WHERE.fullmatch(text.strip())
    assert match is not None  # place and fields together match anything
    return match["place"], match["thing"], match["fields"]


# --- methods --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method to run: its class and the fields that were given with it.

    Arguments:
        name: for tables and folders: the module's name (`fedavg`), or the class's for a user's own.
        written: as the user wrote it; tells variants of one method apart.
        text: how another process finds the class; None: only this process has it.
        cls: the class.
        given: fields that were given with the method itself, in their types.
        is_object: whether it was given as a Method; nothing but tuning changes its fields.
    """

    name: str
    written: str
    text: str | None
    cls: type[Method] | type[Service]
    given: Mapping[str, Any]
    is_object: bool = False

    def make(self, suited: Mapping[str, Mapping[str, Any]], extra: Mapping[str, Any]) -> Method | Service:
        """Make the method: defaults, then what suits the scenario, then `extra`, then what was given with it.

        Arguments:
            suited: a scenario's fields by method name.
            extra: fields for every method; those that this one does not have are left out.
        """
        known = fields_of(self.cls)
        fit = settle(f"suited[{self.name!r}]", known, suited.get(self.name) or suited.get(self.cls.__name__) or {})
        own = {name: value for name, value in extra.items() if name in known}
        values = fit | settle(self.name, known, own) | dict(self.given)
        missing = [f.name for f in known.values() if f.default is NEEDED and f.name not in values]
        if missing:
            raise ScenarioError(f"method {self.name}: needs {', '.join(missing)}; give them as {self.name}:{missing[0]}=...")
        return _called(f"method {self.name}", self.cls, values)

    def fixed(self, extra: Mapping[str, Any]) -> set[str]:
        """Names of the fields that the user has set, and that tuning leaves alone."""
        known = fields_of(self.cls)
        own = {name for name, value in self.given.items() if not self.is_object or value != known[name].default}
        return own | set(extra).intersection(known)


def find_method(wanted: str | Method | Service) -> Candidate:
    """Return the method that a text or an object stands for.

    Raises:
        ScenarioError: no such method, file, class or field; the message lists what there is.

    >>> find_method("fedavg:lr=0.5").given
    {'lr': 0.5}
    """
    from airloom.program.method import Method, Service

    if isinstance(wanted, Method | Service):
        cls = type(wanted)
        given = {name: getattr(wanted, name) for name in fields_of(cls)}
        shown = ",".join(f"{f.name}={given[f.name]}" for f in fields_of(cls).values() if given[f.name] != f.default)
        name = _method_name(cls)
        return Candidate(name=name, written=f"{name}:{shown}" if shown else name, text=_text_of(cls), cls=cls, given=given, is_object=True)
    if not isinstance(wanted, str):
        raise ScenarioError(f"method {wanted!r}: got a {type(wanted).__name__}; allowed is a name, file.py:Class, or a Method")
    place, thing, own = _split(wanted)
    room = next((room for room in METHOD_ROOMS if place in names_in(room)), None)
    is_name = room is not None
    if not is_name and not place.endswith(".py") and thing is None:
        known = [name for room in METHOD_ROOMS for name in names_in(room)]
        raise ScenarioError(f"method '{place}': there is no such method; {_one_of(place, known)}, file.py:Class or module:Class")
    module = load_module(f"airloom.{room}.{place}" if is_name else place)
    classes = {name: thing for name, thing in vars(module).items() if _is_method(thing, module)}
    if thing is None and len(classes) > 1 and is_name:
        classes = {name: cls for name, cls in classes.items() if name.lower() == place.replace("_", "")}
    if thing is not None and thing not in classes:
        if is_name:
            pair(thing)  # meant as a field
        raise ScenarioError(f"method '{place}:{thing}': there is no such method in it; {_one_of(thing, classes)}")
    if thing is None and len(classes) != 1:
        what = "has no Method" if not classes else f"has {len(classes)} methods"
        hint = "write a frozen dataclass that inherits from airloom.program.method.Method" if not classes else f"write {place}:{next(iter(classes))}"
        raise ScenarioError(f"method '{place}': the module {what} ({', '.join(classes) or 'none'}); {hint}")
    cls = classes[thing] if thing is not None else next(iter(classes.values()))
    name = _method_name(cls)
    given = settle(name, fields_of(cls), pairs(own)) if own else {}
    return Candidate(name=name, written=f"{name}:{own}" if own else name, text=_text_of(cls), cls=cls, given=given)


def _is_method(thing: Any, module: ModuleType) -> bool:
    from airloom.program.method import Method, Service

    return isinstance(thing, type) and issubclass(thing, Method | Service) and not inspect.isabstract(thing) and thing.__module__ == module.__name__


def _method_name(cls: type) -> str:
    room, _, module = cls.__module__.rpartition(".")
    return module if room.removeprefix("airloom.") in METHOD_ROOMS else cls.__name__


def _text_of(thing: Any) -> str | None:
    """Return how another process finds a class or function: `name`, `file.py:Thing` or `module:Thing`; None if it cannot."""
    module, name = thing.__module__, thing.__qualname__
    if "." in name or module == "__main__" or module not in sys.modules:
        return None
    if module.startswith("airloom_file_"):
        return f"{sys.modules[module].__file__}:{name}"
    room, _, last = module.rpartition(".")
    if room.removeprefix("airloom.") in (*METHOD_ROOMS, "scenarios") and last in names_in(room.rpartition(".")[2]):
        return last
    try:
        is_found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        is_found = False
    return f"{module}:{name}" if is_found and vars(sys.modules[module]).get(name) is thing else None


def _called(what: str, function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call with fields by name; whatever goes wrong is the input's fault."""
    try:
        return function(**values)
    except AirloomError:
        raise
    except Exception as error:
        raise ScenarioError(f"{what}: {type(error).__name__}: {error}{line_of(error)}; correct its fields or its file") from error


def labels(candidates: Sequence[Candidate]) -> list[str]:
    """Return a label for each: its name, or as it was written where the name occurs more than once.

    >>> labels([find_method("fedavg"), find_method("fedavg:lr=0.5"), find_method("mtgc")])
    ['fedavg', 'fedavg:lr=0.5', 'mtgc']
    """
    found = [c.name if [d.name for d in candidates].count(c.name) == 1 else c.written for c in candidates]
    for label in found:
        if found.count(label) > 1:
            raise ScenarioError(f"method '{label}': got it twice; give variants different fields, such as {label.partition(':')[0]}:lr=0.1")
    return found


# --- scenarios ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Where scenarios come from: a function of the seed, with its fields.

    Arguments:
        name: for folders and messages until a scenario is built.
        text: how another process finds the function; None: only this process has it.
        function: makes the scenario of a seed.
        fields: its arguments beside the seed.
        measured: devices and links that a real run has measured, in place of the declared ones (see `airloom.scenarios.fleet`); or None.
    """

    name: str
    text: str | None
    function: Callable[..., Scenario]
    fields: Mapping[str, Any]
    measured: Mapping[str, Any] | None = None

    def build(self, seed: int) -> Scenario:
        """Return the scenario of a seed; the last ones are kept, so that several methods meet the same objects."""
        return _built(self, seed)


@lru_cache(maxsize=2)
def _built(world: World, seed: int) -> Scenario:
    from airloom.network.scale import Physics
    from airloom.scenarios.scenario import Scenario

    physics = {name: value for name, value in world.fields.items() if "." in name}
    made = _called(f"scenario {world.name}", world.function, {"seed": seed, **{n: v for n, v in world.fields.items() if n not in physics}})
    if not isinstance(made, Scenario):
        raise ScenarioError(f"scenario {world.name}: its function returned a {type(made).__name__}; it must return a Scenario")
    if physics:
        made = replace(made, network=Physics.of(physics).apply(made.network))
    if world.measured is not None:
        from airloom.scenarios.fleet import calibrated

        return calibrated(made, world.measured)
    return made


def find_scenario(wanted: str | Callable[..., Scenario] | Scenario, sets: Sets | None = None) -> World:
    """Return the scenario that a text, a function or an object stands for, with fields set.

    Raises:
        ScenarioError: no such scenario, file, function or field; the message lists what there is.

    >>> find_scenario("phones", Sets.of({"scenario.devices": "8", "task.alpha": "1"})).fields["devices"]
    8
    """
    from airloom.scenarios.scenario import Scenario

    sets = sets or Sets.of(None)
    if isinstance(wanted, Scenario):
        if sets.scenario or sets.task:
            raise ScenarioError(f"scenario '{wanted.name}': got fields to set, but it is made already; give its function, or set them there")
        return World(name=wanted.name, text=None, function=lambda *, seed: wanted, fields={})
    if callable(wanted):
        return _world(wanted, _text_of(wanted), sets)
    if not isinstance(wanted, str):
        raise ScenarioError(f"scenario {wanted!r}: got a {type(wanted).__name__}; allowed is a name, file.py, file.json, a function or a Scenario")
    if wanted.endswith(".json"):
        return _from_json(Path(wanted), sets)
    function = find_function(wanted)
    return _world(function, _text_of(function), sets)


def find_function(wanted: str) -> Callable[..., Scenario]:
    """Return the scenario function that a text names."""
    place, thing, rest = _split(wanted)
    known = names_in("scenarios")
    if rest is not None:
        raise ScenarioError(f"scenario '{wanted}': got fields behind it; set them with scenario.field=value")
    if place in known:
        place, thing = f"airloom.scenarios.{place}", thing or place
    elif not place.endswith(".py") and thing is None:
        raise ScenarioError(f"scenario '{wanted}': there is no such scenario; {_one_of(wanted, known)}, file.py[:function] or file.json")
    module = load_module(place)
    functions = {name: f for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and _returns_scenario(f)}
    if thing is None and len(functions) > 1 and Path(place).stem in functions:
        thing = Path(place).stem
    if thing is None and len(functions) == 1:
        return next(iter(functions.values()))
    chosen = vars(module).get(thing) if thing is not None else None
    if not inspect.isfunction(chosen):
        listed = ", ".join(functions) or "none"
        hint = f"write {place}:{next(iter(functions))}" if functions else "write `def my_fleet(*, seed: int) -> Scenario`"
        raise ScenarioError(f"scenario '{wanted}': found no single function to call; functions that return a Scenario are {listed}; {hint}")
    return chosen


def _returns_scenario(function: Callable[..., Any]) -> bool:
    returned = function.__annotations__.get("return")
    return str(getattr(returned, "__name__", returned)).rpartition(".")[2] == "Scenario"


def _world(function: Callable[..., Scenario], text: str | None, sets: Sets) -> World:
    """Return a world with every argument of the function settled, so that a record says all of them."""
    from airloom.network.scale import Physics

    name = getattr(function, "__name__", type(function).__name__)
    known = fields_of(function)
    if "seed" not in known:
        raise ScenarioError(f"scenario {name}: its function takes no seed; write `def {name}(*, seed: int, ...) -> Scenario`")
    if "seed" in sets.scenario:
        raise ScenarioError(f"scenario {name}, field seed: got {sets.scenario['seed']!r}; the world's seed is the run's, give that one")
    own = {n: f for n, f in known.items() if n not in ("seed", "task")}
    physics = {n: v for n, v in sets.scenario.items() if "." in n}
    Physics.of(physics)
    given = {n: v for n, v in sets.scenario.items() if n not in physics}
    values = {n: f.default for n, f in own.items() if f.default is not NEEDED and _packs(f.default)} | settle(f"scenario.{name}", own, given)
    missing = [n for n, f in own.items() if f.default is NEEDED and n not in values]
    if missing:
        raise ScenarioError(f"scenario {name}: needs {', '.join(missing)}; give them as scenario.{missing[0]}=...")
    task = known.get("task")
    if task is None and sets.task:
        raise ScenarioError(f"scenario {name}: got task.{next(iter(sets.task))}, but it takes no task; {_one_of('task', own)}")
    if task is not None:
        values["task"] = _settings(name, task, sets.task)
    values |= {n: float(v) for n, v in physics.items()}
    return World(name=name, text=text if _packs(values) else None, function=function, fields=values)


def _settings(name: str, task: Field, given: Mapping[str, Any]) -> Any:
    """Return the task settings of a scenario with fields set."""
    kind = type(task.default) if is_dataclass(task.default) else task.type
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ScenarioError(f"scenario {name}, argument task: got {type_text(task.type)}; it must be a frozen dataclass such as TaskSettings")
    settled = settle("task", fields_of(kind), given)
    if task.default is NEEDED:
        return _called("task", kind, settled)
    return _called("task", lambda **values: replace(task.default, **values), settled)


def _packs(value: Any) -> bool:
    try:
        pack(value)
    except Unpackable:
        return False
    return True


def _from_json(path: Path, sets: Sets) -> World:
    """Read {"scenario": NAME or FILE.py[:function], "fields": {...}, "task": {...}}; a file's path is relative to the JSON file."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"scenario '{path}': cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise ScenarioError(f"scenario '{path}': is no JSON ({error}); correct the file") from error
    allowed = {"scenario": str, "fields": dict, "task": dict, "packed": dict, "measured": dict}
    if not isinstance(read, dict) or "scenario" not in read:
        raise ScenarioError(
            f'scenario \'{path}\': got {type(read).__name__} without "scenario"; write {{"scenario": "phones", "fields": {{"devices": 20}}}}'
        )
    for key, value in read.items():
        if not isinstance(value, allowed.get(key, ())):
            raise ScenarioError(f"scenario '{path}', {key!r}: got {value!r}; allowed are scenario (text), fields and task (objects)")
    if "measured" in read:
        return _measured(path, read, sets)
    text = read["scenario"]
    if ".py" in text:
        text = str((path.parent / text).resolve())
    function = find_function(text)
    both = Sets(method={}, scenario={**read.get("fields", {}), **sets.scenario}, task={**read.get("task", {}), **sets.task})
    return _world(function, _text_of(function), both)


def _measured(path: Path, read: Mapping[str, Any], sets: Sets) -> World:
    """Return the world of a file that `airloom calibrate` has written."""
    measured = read["measured"]
    if not isinstance(measured.get("devices"), dict) or not isinstance(measured.get("links"), list):
        raise ScenarioError(f"scenario '{path}', 'measured': got no devices and links; write it with airloom calibrate")
    function = find_function(read["scenario"])
    values = {name: unpack(value) for name, value in read.get("packed", {}).items()}
    own = {n: f for n, f in fields_of(function).items() if n not in ("seed", "task")}
    values |= settle("scenario", own, sets.scenario)
    if sets.task:
        values["task"] = replace(values["task"], **settle("task", fields_of(type(values["task"])), sets.task))
    return World(name=path.stem, text=_text_of(function), function=function, fields=values, measured=measured)


def cores() -> int:
    """Return the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
