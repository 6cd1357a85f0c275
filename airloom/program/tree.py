"""Trees: what states, arguments and results are made of.

A tree is a dict, list or tuple of leaves: `Params`, fitted estimators, tensors, numpy arrays, numbers, strings, None, `Ref`s, and frozen values
(submodels, optimizers) that a method's text carries around. A leaf has a *body* (bytes that are worth sending once: Params, tensors, arrays) or
counts as *control* (the few bytes of a number or a name, which ride with every message).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from airloom.models.estimator import Fitted
from airloom.models.params import Params
from airloom.program.ref import Ref

Path = tuple[Any, ...]


def leaves(tree: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """List (path, leaf) pairs in a fixed order.

    >>> leaves({"a": [1, 2], "b": None})
    [(('a', 0), 1), (('a', 1), 2), (('b',), None)]
    """
    kind = type(tree)
    if kind is dict:
        return [pair for key, value in tree.items() for pair in leaves(value, (*path, key))]
    if kind is list or kind is tuple:
        return [pair for i, value in enumerate(tree) for pair in leaves(value, (*path, i))]
    return [(path, tree)]


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree with `function` applied to each leaf.

    >>> map_leaves(lambda v: v + 1, {"a": [1, 2]})
    {'a': [2, 3]}
    """
    kind = type(tree)
    if kind is dict:
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if kind is list:
        return [map_leaves(function, value) for value in tree]
    if kind is tuple:
        return tuple([map_leaves(function, value) for value in tree])
    return function(tree)


def at(tree: Any, path: Path) -> Any:
    """Return the part of a tree that a path names.

    >>> at({"a": [1, 2]}, ("a", 1))
    2
    """
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, instead: Mapping[Path, Any], path: Path = ()) -> Any:
    """Return the tree with other leaves at some paths.

    >>> replaced({"a": [1, 2]}, {("a", 1): 3})
    {'a': [1, 3]}
    """
    kind = type(tree)
    if kind is dict:
        return {key: replaced(value, instead, (*path, key)) for key, value in tree.items()}
    if kind is list or kind is tuple:
        return kind([replaced(value, instead, (*path, i)) for i, value in enumerate(tree)])
    return instead.get(path, tree)


def body_bytes(leaf: Any) -> int:
    """Encoded size of a leaf that has a body, in bytes; -1 for control leaves."""
    if isinstance(leaf, Params | Fitted):
        return leaf.nbytes
    if isinstance(leaf, torch.Tensor):
        return leaf.numel() * leaf.element_size() if leaf.dim() else -1
    if isinstance(leaf, np.ndarray):
        return int(leaf.nbytes)
    return -1


def control_bytes(leaf: Any) -> int:
    """Size of a leaf without a body, in bytes: 8 for a number, 1 for a truth value, its letters for a string, 0 for None and for names of values."""
    if leaf is None or isinstance(leaf, Ref):
        return 0
    if isinstance(leaf, bool | np.bool_):
        return 1
    if isinstance(leaf, int | float | np.number):
        return 8
    if isinstance(leaf, torch.Tensor):
        return leaf.element_size()
    if isinstance(leaf, str):
        return len(leaf.encode())
    return len(repr(leaf).encode())  # a frozen value: its text form


def key_of(leaf: Any) -> int:
    """Identity of a leaf with a body: two Params over one vector are one object on the wire."""
    return id(leaf.flat) if isinstance(leaf, Params) else id(leaf)


def tensor_of(leaf: Any) -> torch.Tensor | None:
    """The tensor under a leaf, if any."""
    if isinstance(leaf, Params):
        return leaf.flat
    return leaf if isinstance(leaf, torch.Tensor) else None


def version_of(leaf: Any) -> int:
    """How often the tensor under a leaf was changed in place (0 where it cannot be)."""
    tensor = tensor_of(leaf)
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def to_meta(leaf: Any) -> Any:
    """The leaf without its values, for dry runs: tensors and Params on the meta device, floats as 0-dim meta tensors."""
    if isinstance(leaf, Params | Fitted):
        return leaf.to_meta()
    if isinstance(leaf, torch.Tensor):
        return leaf.to("meta")
    if isinstance(leaf, float | np.floating):
        return torch.empty((), dtype=torch.float64, device="meta")
    return leaf


def signature(tree: Any) -> Any:
    """What the price of a call may depend on: shapes, integers, truth values and names by value; floats and contents by type only.

    >>> signature([1, 0.5, "a"]) == signature([1, 0.7, "a"])
    True
    """
    kind = type(tree)
    if kind is dict:
        return ("d", *[(key, signature(value)) for key, value in tree.items()])
    if kind is list or kind is tuple:
        return ("l", *[signature(value) for value in tree])
    if isinstance(tree, Params):
        return ("p", tree.spec.key)
    if isinstance(tree, Fitted):
        return ("e", repr(tree.recipe), tuple(tree.x.shape))
    if isinstance(tree, torch.Tensor):
        return ("f",) if tree.dim() == 0 and tree.is_floating_point() else ("t", tuple(tree.shape), str(tree.dtype))
    if isinstance(tree, np.ndarray):
        return ("a", tree.shape, str(tree.dtype))
    if isinstance(tree, float | np.floating):
        return ("f",)
    try:
        hash(tree)
    except TypeError:
        return ("r", repr(tree))
    return tree
