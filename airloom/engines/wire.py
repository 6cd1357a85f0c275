"""The form of every message between real machines: a tree of values as JSON, its arrays as safetensors, functions by registered name.

    message = b"AIR1" | length of the JSON (4 bytes, little-endian) | JSON | safetensors

Nothing is ever executed, imported or pickled to read a message. A reader takes only what its method and its model allow: functions that the method
was made of, values of known classes, vectors of the model's shape and dtype, finite numbers, sizes under `Limits`. Everything else is refused as a
whole with a `WireError`, before anything has changed. Reading takes memory in proportion to the message's own size, which is limited.

Left out: encryption and authentication, which are the transport's (TLS and node keys); Tapes, which stay at their place.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from airloom.errors import ScenarioError, Unsupported, WireError
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.program.method import Method, Service, function_name
from airloom.program.ref import Ref

MAGIC = b"AIR1"
DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}  # fmt: skip
_SCALARS = frozenset((*(set(DTYPES) - {"bfloat16"}), "uint16", "uint32", "uint64"))
# whose frozen values may travel, besides those of the method's own modules
_ROOMS = ("airloom.models.", "airloom.parts.", "airloom.program.codec", "airloom.program.protection")
_TEXTS = frozenset(("init", "round", "done", "finish", "predict", "run"))  # of the root; never run at a node


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a reader accepts (defaults ours).

    Arguments:
        message_bytes: a whole message.
        tree_bytes: its JSON; in memory a tree takes up to some forty times as much.
        depth: levels of dicts, lists and tuples.
        tensors: arrays in one message.
    """

    message_bytes: int = 1 << 30
    tree_bytes: int = 4 << 20
    depth: int = 32
    tensors: int = 4096

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 1:
                raise ScenarioError(f"Limits.{f.name}: got {getattr(self, f.name)!r}; allowed are integers >= 1")


class Functions:
    """The functions that a node may run: those that a method is made of, by registered name and owner.

    Owners are the method and the parts in its fields, named by the path of fields that leads there ("" is the method itself). Functions of the
    modules that define these classes belong to no owner.

    Arguments:
        method: what the node was started with.
    """

    def __init__(self, method: Method | Service) -> None:
        self.owners: dict[str, Any] = {}
        self.plain: dict[str, Callable[..., Any]] = {}
        self.modules: set[str] = set()
        self._add("", method)

    def _add(self, path: str, owner: Any) -> None:
        self.owners[path] = owner
        for cls in type(owner).__mro__:
            module = sys.modules.get(cls.__module__)
            if module is None or cls in (Method, Service, object) or cls.__module__ in self.modules:
                continue
            self.modules.add(cls.__module__)
            for thing in vars(module).values():
                if isinstance(thing, FunctionType) and thing.__module__ == cls.__module__ and "<" not in thing.__qualname__:
                    self.plain[function_name(thing)] = thing
        for f in fields(owner):
            value = getattr(owner, f.name)
            if is_dataclass(value) and not isinstance(value, type):
                self._add(f"{path}.{f.name}" if path else f.name, value)

    def name_of(self, fn: Callable[..., Any]) -> tuple[str, str | None]:
        """The registered name and the owner's path; Unsupported for a function that no node would know."""
        name, owner = function_name(fn), getattr(fn, "__self__", None)
        if owner is None:
            if self.plain.get(name) is fn:
                return name, None
        else:
            kin = [(path, known) for path, known in self.owners.items() if type(known) is type(owner)]
            for path, _ in [pair for pair in kin if pair[1] is owner] + [pair for pair in kin if pair[1] == owner]:
                self.named(name, path)
                return name, path
        raise Unsupported(
            f"function '{name}': got one that is no part of {type(self.owners['']).__name__}; allowed on real machines are functions of the "
            f"method, of the parts in its fields, and of their modules"
        )

    def named(self, name: Any, path: Any) -> Callable[..., Any]:
        """The function of that name; WireError for one that this node was not started with."""
        if path is None and isinstance(name, str) and name in self.plain:
            return self.plain[name]
        if isinstance(path, str) and isinstance(name, str) and path in self.owners:
            owner = self.owners[path]
            short = name.rpartition(".")[2]
            is_text = short in _TEXTS or short.startswith("__")
            for cls in () if is_text else type(owner).__mro__:
                if cls not in (Method, Service, object) and f"{cls.__module__}:{cls.__qualname__}.{short}" == name:
                    found = vars(cls).get(short)
                    if isinstance(found, FunctionType):
                        return found.__get__(owner)
        raise WireError(
            f"function {_short(name)}: unknown here; a node runs only functions of the method it was started with "
            f"({type(self.owners['']).__name__}); start all nodes with the same method and version"
        )


class Wire:
    """Writes trees as messages and reads them back, checked.

    Arguments:
        method: whose functions and values may travel.
        specs: the models (bases) whose values may travel.
        limits: what is accepted.
        write_ref, read_ref: a Ref as a tree without Refs, and back; without them Refs do not travel.
    """

    def __init__(
        self,
        method: Method | Service,
        specs: Iterable[ModelSpec],
        limits: Limits = Limits(),
        write_ref: Callable[[Ref], Any] | None = None,
        read_ref: Callable[[Any], Ref] | None = None,
    ) -> None:
        self.functions = Functions(method)
        self.bases = {spec.base.key: spec.base for spec in specs}
        self.limits = limits
        self.write_ref = write_ref
        self.read_ref = read_ref

    def encode(self, tree: Any) -> bytes:
        """The message that stands for a tree.

        Raises:
            Unsupported: a value has no form on the wire.
            ScenarioError: the message is larger than the limits allow.
            WireError: a number that is not finite, which the reader would refuse.
        """
        out = _Writer(self)
        body = {"tree": out.write(tree, 0), "specs": out.recipes}
        text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        tensors = write_tensors(out.tensors) if out.tensors else b""
        for what, size, allowed in (
            ("tree of", len(text), self.limits.tree_bytes),
            ("message of", len(text) + len(tensors) + 8, self.limits.message_bytes),
        ):
            if size > allowed:
                raise ScenarioError(f"message: got a {what} {size} bytes; allowed are {allowed}; send less at once, or raise the limits at all nodes")
        return b"".join((MAGIC, len(text).to_bytes(4, "little"), text, tensors))

    def decode(self, raw: bytes) -> Any:
        """The tree that a message stands for; WireError for anything that is not allowed."""
        if len(raw) > self.limits.message_bytes:
            raise WireError(f"message: got {len(raw)} bytes; allowed are {self.limits.message_bytes}")
        length = int.from_bytes(raw[4:8], "little")
        if len(raw) < 8 or raw[:4] != MAGIC or 8 + length > len(raw):
            raise WireError("message: got one that is not ours or is cut short; allowed are messages of the same version of airloom")
        if length > self.limits.tree_bytes:
            raise WireError(f"message: got a tree of {length} bytes; allowed are {self.limits.tree_bytes}")
        try:
            body = json.loads(raw[8 : 8 + length], parse_constant=_refuse_constant)
            tensors = read_tensors(raw[8 + length :]) if len(raw) > 8 + length else {}
            if type(body) is not dict or body.keys() != {"tree", "specs"} or type(body["specs"]) is not list:
                raise WireError("message: got JSON without a tree and its specs")
            return _Reader(self, tensors, body["specs"]).read(body["tree"], 0)
        except WireError:
            raise
        except Exception as error:  # whatever the parsers find wrong is a refusal: nothing has been changed yet
            raise WireError(f"message: cannot be read ({type(error).__name__}: {_short(error)})") from error


class _Writer:
    """One message in the making."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.tensors: dict[str, torch.Tensor] = {}
        self.names: dict[int, str] = {}
        self.storages: set[int] = set()
        self.recipes: list[Any] = []
        self.known: dict[str, int] = {}
        self.kept: list[Any] = []  # so that identities stay what they are

    def write(self, tree: Any, depth: int) -> Any:
        """JSON of a tree."""
        if depth > self.wire.limits.depth:
            raise Unsupported(f"message: got a value of more than {self.wire.limits.depth} levels; flatten it")
        if isinstance(tree, np.generic):
            return ["n", str(tree.dtype), self.write(tree.item(), depth + 1)]
        if tree is None or isinstance(tree, bool | str):
            return tree
        if type(tree) is int:
            return tree if abs(tree) < 1 << 62 else ["i", hex(tree)]
        if type(tree) is float:
            return tree if math.isfinite(tree) else ["f", repr(tree)]
        kind = type(tree)
        if kind is dict:
            return ["d", [[self.write(key, depth + 1), self.write(value, depth + 1)] for key, value in tree.items()]]
        if kind is list or kind is tuple:
            return ["l" if kind is list else "t", [self.write(value, depth + 1) for value in tree]]
        if isinstance(tree, Params):
            return ["p", self._spec(tree.spec), self._tensor(tree.flat)]
        if isinstance(tree, torch.Tensor):
            return ["T", self._tensor(tree)]
        if isinstance(tree, np.ndarray):
            if str(tree.dtype) not in DTYPES:
                raise Unsupported(f"message: got an array of {tree.dtype}; allowed are {', '.join(DTYPES)}")
            return ["a", self._tensor(torch.from_numpy(np.array(tree, order="C", copy=True)))]
        if isinstance(tree, ModelSpec):
            return ["s", self._spec(tree)]
        if isinstance(tree, Ref) and self.wire.write_ref is not None:
            return ["r", self.write(self.wire.write_ref(tree), depth + 1)]
        if callable(tree) and not is_dataclass(tree):
            return ["F", *self.wire.functions.name_of(tree)]
        if is_dataclass(tree) and not isinstance(tree, type) and self._may_travel(kind):
            own = {f.name: self.write(getattr(tree, f.name), depth + 1) for f in fields(tree) if f.init}
            return ["v", kind.__module__, kind.__qualname__, own]
        raise Unsupported(
            f"message: got a {kind.__module__}.{kind.__qualname__}; allowed are dicts, lists, tuples, Params, tensors, arrays, numbers, strings, "
            f"None and frozen values of models, parts and the method's module"
        )

    def _may_travel(self, kind: type) -> bool:
        return _is_value(kind) and (kind.__module__.startswith(_ROOMS) or kind.__module__ in self.wire.functions.modules)

    def _spec(self, spec: ModelSpec) -> int:
        if spec.cold.key not in self.wire.bases:
            raise Unsupported(f"message: got values of {spec.base}, which no node holds; allowed are the task's models and slices of them")
        if spec.key not in self.known:
            self.known[spec.key] = len(self.recipes)
            self.recipes.append(spec.recipe())
        return self.known[spec.key]

    def _tensor(self, tensor: torch.Tensor) -> str:
        name = self.names.get(id(tensor))
        if name is None:
            if str(tensor.dtype)[6:] not in DTYPES:
                raise Unsupported(f"message: got a tensor of {tensor.dtype}; allowed are {', '.join(DTYPES)}")
            _check_finite(tensor)
            self.kept.append(tensor)
            name = self.names[id(tensor)] = str(len(self.names))
            plain = tensor.detach().cpu().contiguous()
            storage = plain.untyped_storage().data_ptr()
            if storage in self.storages or plain.untyped_storage().nbytes() != plain.nbytes:
                plain = plain.clone()  # safetensors wants memory that nothing shares
            self.storages.add(storage)
            self.tensors[name] = plain
        return name


class _Reader:
    """One message being read."""

    def __init__(self, wire: Wire, tensors: Mapping[str, torch.Tensor], recipes: list[Any]) -> None:
        self.wire = wire
        if len(tensors) > wire.limits.tensors:
            raise WireError(f"message: got {len(tensors)} arrays; allowed are {wire.limits.tensors}")
        for tensor in tensors.values():
            if str(tensor.dtype)[6:] not in DTYPES:
                raise WireError(f"message: got an array of {tensor.dtype}; allowed are {', '.join(DTYPES)}")
            _check_finite(tensor)
        self.tensors = tensors
        self.specs = [_spec_of(recipe, wire.bases) for recipe in recipes]

    def read(self, thing: Any, depth: int) -> Any:
        """The tree that JSON stands for."""
        if depth > self.wire.limits.depth:
            raise WireError(f"message: got more than {self.wire.limits.depth} levels")
        if not isinstance(thing, list):
            if type(thing) is dict or (type(thing) is float and not math.isfinite(thing)):
                raise WireError("message: got a bare dict, or a number that is not finite")
            return thing
        if not thing or type(thing[0]) is not str or (thing[0], len(thing)) not in _KINDS:
            raise WireError("message: got a value of unknown kind")
        kind, value = thing[0], thing[1]
        if kind == "d":
            return {self._key(key, depth): self.read(item, depth + 1) for key, item in _pairs(value)}
        if kind in ("l", "t"):
            whole = [self.read(item, depth + 1) for item in _list(value)]
            return whole if kind == "l" else tuple(whole)
        if kind == "p":
            return Params.checked(self._spec(value), self._tensor(thing[2]))
        if kind == "T":
            return self._tensor(value)
        if kind == "a":
            return self._tensor(value).numpy()
        if kind == "s":
            return self._spec(value)
        if kind == "f":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value]
        if kind == "i":
            return int(value, 16)
        if kind == "n":
            if value not in _SCALARS:
                raise WireError(f"message: got a number of type {_short(value)}")
            plain = self.read(thing[2], depth + 1)
            if not isinstance(plain, bool | int | float):
                raise WireError(f"message: got a {type(plain).__name__} as a number")
            return np.dtype(value).type(plain)
        if kind == "r":
            if self.wire.read_ref is None:
                raise WireError("message: got the name of a value elsewhere; allowed here are values")
            return self.wire.read_ref(self.read(value, depth + 1))
        if kind == "F":
            return self.wire.functions.named(value, thing[2])
        return self._value(value, thing[2], thing[3], depth)

    def _key(self, key: Any, depth: int) -> Any:
        found = self.read(key, depth + 1)
        if isinstance(found, str | int | float | bool | None | tuple):
            return found
        raise WireError(f"message: got a {type(found).__name__} as a key")

    def _spec(self, index: Any) -> ModelSpec:
        if type(index) is not int or not 0 <= index < len(self.specs):
            raise WireError(f"message: got spec {_short(index)} of {len(self.specs)}")
        return self.specs[index]

    def _tensor(self, name: Any) -> torch.Tensor:
        if type(name) is not str or name not in self.tensors:
            raise WireError(f"message: got array {_short(name)}, which is not in it")
        return self.tensors[name]

    def _value(self, module: Any, qualname: Any, own: Any, depth: int) -> Any:
        """A frozen value of a class that is here already; nothing is imported."""
        is_allowed = isinstance(module, str) and (module.startswith(_ROOMS) or module in self.wire.functions.modules) and module in sys.modules
        cls = vars(sys.modules[module]).get(qualname) if is_allowed and isinstance(qualname, str) else None
        if not isinstance(cls, type) or cls.__module__ != module or not _is_value(cls) or not isinstance(own, dict):
            raise WireError(
                f"message: got a value of class {_short(qualname)} of {_short(module)}; allowed are frozen values of models, parts and the method"
            )
        if not own.keys() <= {f.name for f in fields(cls) if f.init}:
            raise WireError(f"message: got unknown fields for {qualname}")
        return cls(**{name: self.read(value, depth + 1) for name, value in own.items()})


_KINDS = frozenset(
    (("d", 2), ("l", 2), ("t", 2), ("p", 3), ("T", 2), ("a", 2), ("s", 2), ("f", 2), ("i", 2), ("n", 3), ("r", 2), ("F", 3), ("v", 4))
)  # fmt: skip


def _is_value(cls: type) -> bool:
    """Whether instances are plain frozen data."""
    return is_dataclass(cls) and bool(cls.__dataclass_params__.frozen) and not issubclass(cls, Method | Service)  # type: ignore[attr-defined]


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise WireError(f"message: got a {type(value).__name__} for a list")
    return value


def _pairs(value: Any) -> list[list[Any]]:
    pairs = _list(value)
    if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise WireError("message: got a dict whose entries are no pairs")
    return pairs


def _refuse_constant(text: str) -> None:
    raise WireError(f"message: got the number {text}; allowed are finite ones")


def _check_finite(tensor: torch.Tensor) -> None:
    """Refuse arrays that hold NaN or infinity."""
    if tensor.is_meta:
        raise WireError("message: got an array without values (of a dry run)")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise WireError("message: got values that are not finite; if training diverged, use a smaller lr or clip_norm")


def _spec_of(recipe: Any, bases: Mapping[str, ModelSpec]) -> ModelSpec:
    """The spec that a recipe describes; coordinates are checked before any array is made from them."""
    if type(recipe) is not dict or type(recipe.get("base")) is not str or recipe["base"] not in bases:
        raise WireError("message: got values of a model that is not here; build the same task at all nodes")
    rest = recipe.keys() - {"is_thawed"}
    if rest != recipe.keys() and (recipe["is_thawed"] is not True or not bases[recipe["base"]].pairs):
        raise WireError("message: got a description of a thawed model that cannot be read")
    base = ModelSpec.base_of(recipe, bases)
    if rest == {"base"}:
        return base
    if rest != {"base", "leaves", "kept", "scale", "width"} or type(recipe["leaves"]) is not dict or type(recipe["scale"]) is not dict:
        raise WireError("message: got a description of a slice that cannot be read")
    shapes = {leaf.name: leaf.shape for leaf in base.leaves}
    for name, text in recipe["leaves"].items():
        if name not in shapes:
            raise WireError(f"message: got a slice of {_short(name)}, which {base} lacks")
        if type(text) is dict:
            listed, shape = [text.get("flat")], (math.prod(shapes[name]),)
        else:
            listed, shape = ([None] * len(shapes[name]) if text == "all" else _list(text)), shapes[name]
        if len(listed) != len(shape):
            raise WireError(f"message: got a slice of {name} with {len(listed)} axes; it has {len(shape)}")
        for ids, n in zip(listed, shape, strict=True):
            _check_ids(ids, n, name)
    kept = recipe["kept"]
    if kept is not None and not all(type(path) is str for path in _list(kept)):
        raise WireError("message: got a slice whose kept modules are no names")
    numbers = [recipe["width"], *recipe["scale"].values()]
    holders = {*base.pairs, *[name.rpartition(".")[0] for name in shapes]}  # what a slice may scale: pairs and modules
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers) or not recipe["scale"].keys() <= holders:
        raise WireError("message: got a slice whose width or scale is no finite number, or of a pair or module that is not there")
    return ModelSpec.from_recipe(recipe, bases)


def _check_ids(ids: Any, n: int, name: str) -> None:
    """Indices of one axis of length n: None, a range, or a rising list."""
    if ids is None:
        return
    if type(ids) is dict:
        start, end = ids.get("from"), ids.get("to")
        if type(start) is int and type(end) is int and 0 <= start < end <= n:
            return
    elif type(ids) is list and all(type(i) is int for i in ids):
        last = -1
        for i in ids:
            if not last < i < n:
                break
            last = i
        else:
            return
    raise WireError(f"message: got indices of {name} that are not rising numbers below {n}")


def _short(thing: Any) -> str:
    """A few letters of something that a stranger wrote."""
    text = str(thing) if isinstance(thing, str | int | Exception) else type(thing).__name__
    return repr(text[:120])
