"""A trust boundary around whatever a device sends: typed placeholders, a deterministic registry, a scan that fails closed, a meter of leakage.

    {TYPE_n} <-> value, one token per exact string, append-only; the first type wins
    sanitize: what looks like a token becomes a LITERAL; then all known values in one pass, the longest first
    reverse: one pass over the tokens

Sanitized text is a type of its own: sanitizing it is the identity, and only it may cross. A model proposes values; the registry alone substitutes, so
that a model's mistake can miss a value but never alter an argument.

Paper: L. Yuan, W. Fang, S. Wang et al., "PAAC: Privacy-Aware Agentic Device-Cloud Collaboration", 2026, arXiv 2605.08646; tokens with braces, the
treatment of token-like text, substitution in a single pass and the scan are ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from airloom.errors import ScenarioError

TOKEN = re.compile(r"\{[A-Z]+_[0-9]+\}")
LITERAL = "LITERAL"


@dataclass(frozen=True)
class Sanitized:
    """Text that may cross the boundary; made by a `Registry`."""

    text: str


class Leak(ScenarioError):
    """A message that was not sent, because a registered value stands in it."""


class UnknownToken(ScenarioError):
    """An action that was not executed, because it names a placeholder that nobody made."""


class Registry:
    """Tokens and values of one task; never shared between tasks.

    Arguments:
        allowed: values that may stay although they are registered (short ones that occur in ordinary words).

    >>> box = Registry()
    >>> box.add("NAME", "Ann")
    '{NAME_1}'
    >>> said = box.sanitize("Ann wrote {NAME_1}.")
    >>> said.text, box.reverse(said.text)
    ('{NAME_1} wrote {LITERAL_1}.', 'Ann wrote {NAME_1}.')
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self.allowed = frozenset(allowed)
        self._token: dict[str, str] = {}
        self._value: dict[str, str] = {}
        self._count: dict[str, int] = {}

    @property
    def values(self) -> list[str]:
        """Registered values that must not leave, in order of registration."""
        return [value for value in self._token if value not in self.allowed]

    def add(self, kind: str, value: str) -> str:
        """Register a value; return its token, the same one for the same value whatever the kind."""
        if not re.fullmatch(r"[A-Z]+", kind) or not value:
            raise ScenarioError(f"Registry.add(kind={kind!r}, value={value!r}): allowed are kinds of capital letters and values that are not empty")
        known = self._token.get(value)
        if known is not None:
            return known
        self._count[kind] = self._count.get(kind, 0) + 1
        token = f"{{{kind}_{self._count[kind]}}}"
        self._token[value], self._value[token] = token, value
        return token

    def sanitize(self, text: str | Sanitized) -> Sanitized:
        """Return the text with a token for every registered value."""
        if isinstance(text, Sanitized):
            return text
        for found in TOKEN.findall(text):
            self.add(LITERAL, found)
        known = sorted(self.values, key=len, reverse=True)
        if not known:
            return Sanitized(text)
        return Sanitized(re.sub("|".join(map(re.escape, known)), lambda match: self._token[match[0]], text))

    def late(self, message: Sanitized) -> str:
        """Return a sanitized text with what was registered since it was written replaced too, outside of its tokens."""
        parts = TOKEN.split(message.text)
        tokens = [*TOKEN.findall(message.text), ""]
        return "".join(self.sanitize(part).text + token for part, token in zip(parts, tokens))

    def reverse(self, text: str) -> str:
        """Return the text with every known token turned back into its value; others stay."""
        return TOKEN.sub(lambda match: self._value.get(match[0], match[0]), text)

    def argument(self, text: str) -> str:
        """Return an action's argument with real values; a token that nobody made is refused."""
        strange = [token for token in TOKEN.findall(text) if token not in self._value]
        if strange:
            raise UnknownToken(f"action: got the placeholder {strange[0]}; allowed are {', '.join(self._value) or 'none yet'}; it is not executed")
        return self.reverse(text)

    def scan(self, message: Sanitized) -> Sanitized:
        """Return the message if no registered value stands outside of its tokens; raise Leak otherwise. What is not Sanitized is refused."""
        if not isinstance(message, Sanitized):
            raise ScenarioError(f"boundary: got a {type(message).__name__}; allowed is Sanitized text; pass it through Registry.sanitize")
        rest = TOKEN.split(message.text)
        for value in self.values:
            if any(value in part for part in rest):
                raise Leak(f"boundary: a registered value of {len(value)} characters stands in the message; it was not sent")
        return message


def leaked(values: Iterable[str], sent: Sequence[str]) -> list[str]:
    """Return the values that stand in what was sent, once each: also those that were only recognized later.

    >>> leaked(["Ann", "Bob"], ["to {NAME_1}", "from Bob"])
    ['Bob']
    """
    return [value for value in dict.fromkeys(values) if any(value in text for text in sent)]
