"""A help desk that is generated: customers ask for refunds, tools look up and pay, and a scripted planner works over values or placeholders alike.

A record belongs to its order number; all names, addresses and card numbers are drawn, none is real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from airloom.clock.rng import generator
from airloom.models.endpoint import Answer, Solver

FIRST = ("Ann", "Ben", "Cleo", "Dora", "Emil", "Finn", "Gus", "Hope")
LAST = ("Archer", "Baker", "Cooper", "Dyer", "Fisher", "Glover", "Hunter", "Mason")
KINDS = {"order": "ORDER", "name": "NAME", "email": "EMAIL", "card": "CARD", "amount": "AMOUNT"}  # of the values in a record, by key
LEVELS = ((), ("CARD", "AMOUNT"), ("CARD", "AMOUNT", "ORDER", "EMAIL"), ("CARD", "AMOUNT", "ORDER", "EMAIL", "NAME"))  # cumulative; 1: records only
PATTERNS = {
    "ORDER": re.compile(r"\bW\d{7}\b"),
    "EMAIL": re.compile(r"\b[\w.]+@[\w.]+\w"),
    "CARD": re.compile(r"\b\d{4}(?:-\d{4}){3}\b"),
    "NAME": re.compile(r"(?<=I am )[A-Z]\w+ [A-Z]\w+"),
}


def record(order: str) -> dict[str, str]:
    """What the shop knows about an order."""
    rng = generator("retail", order)
    first, last = FIRST[rng.integers(8)], LAST[rng.integers(8)]
    card = "-".join(f"{rng.integers(10_000):04d}" for _ in range(4))
    email = f"{first.lower()}.{last.lower()}@mail.example"
    return {"order": order, "name": f"{first} {last}", "email": email, "card": card, "amount": f"{rng.integers(100, 99_999) / 100:.2f}"}


def draw(rng: np.random.Generator) -> tuple[str, str]:
    """A customer's request, and the actions that settle it."""
    found = record(f"W{rng.integers(10_000_000):07d}")
    question = f"Hello, I am {found['name']}. Please refund order {found['order']} and write to {found['email']}."
    return question, done("refund", found) + "; " + done("notify", found)


def done(tool: str, arguments: Mapping[str, str]) -> str:
    """A line that says what was done."""
    names = {"refund": ("order", "card", "amount"), "notify": ("email",)}[tool]
    return f"{tool} " + " ".join(arguments[name] for name in names)


def use(tool: str, arguments: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Run a tool: return a record (or an error in one), and what was done, if anything."""
    if tool == "find_order" and PATTERNS["ORDER"].fullmatch(arguments.get("order", "")):
        return record(arguments["order"]), ""
    if tool == "refund" and set(arguments) == {"order", "card", "amount"}:
        known = record(arguments["order"])
        if all(known[name] == value for name, value in arguments.items()):
            return {"refund": "ok"}, done(tool, arguments)
    if tool == "notify" and "@" in arguments.get("email", ""):
        return {"notify": "ok"}, done(tool, arguments)
    return {"error": f"{tool} refused"}, ""


BRIEF = """You plan for a help desk; tools run elsewhere. Each message is the customer's request, then one finding per line as "key: value".
Tools: find_order {order}; refund {order, card, amount}; notify {email}. Look the order up first; refund with what was found and notify the customer.
Text such as {CARD_1} stands for a value that you are not shown: copy it as it is. Answer with JSON only, all values as text:
{"actions": [["find_order", {"order": "..."}]], "final": false}; when the refund is done, {"actions": [], "final": true}."""  # ours


def read_plan(text: str) -> tuple[list[tuple[str, dict[str, str]]], bool] | None:
    """Actions (tool, arguments) and whether that is all, from the JSON in a planner's text; None where there is no such thing.

    >>> read_plan('Sure: {"actions": [["notify", {"email": "a@b"}]], "final": false}'), read_plan("14")
    (([('notify', {'email': 'a@b'})], False), None)
    """
    try:
        told = json.loads(text[text.index("{") : text.rindex("}") + 1])
        actions = [(tool, dict(named)) for tool, named in told["actions"]]
        is_final = told["final"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    words = [word for tool, named in actions for word in (tool, *named, *named.values())]
    return (actions, is_final) if isinstance(is_final, bool) and all(isinstance(word, str) for word in words) else None


@final
@dataclass(frozen=True, kw_only=True)
class Planner(Solver):
    """The cloud's planner: looks an order up, refunds what was found, and tells the customer; it copies values or placeholders without reading them.

    The question's first line is the request, each further line a finding "key: value". Its text is JSON: actions and whether that is all.
    """

    reply_tokens: int
    brief: str = BRIEF

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """Plan the next actions."""
        request, *lines = question.split("\n")
        found = dict(line.split(": ", 1) for line in lines if ": " in line)
        order, email = re.search(r"order (\S+) and", request), re.search(r"write to (\S+?)\.?$", request)
        actions: list[list[object]] = []
        if "refund" not in found and "error" not in found and order and email:
            actions = [["find_order", {"order": order[1]}]]
            if "card" in found:
                actions = [["refund", {name: found[name] for name in ("order", "card", "amount")}], ["notify", {"email": email[1]}]]
        return Answer(json.dumps({"actions": actions, "final": not actions}), 1.0, self.reply_tokens)
