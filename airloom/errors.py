"""The errors that airloom raises. Each message reads: object and field, what it got, what is allowed, what to do."""

from __future__ import annotations


class AirloomError(Exception):
    """Base of every error that airloom raises on purpose."""


class ScenarioError(AirloomError):
    """Bad input: a scenario, method, field, file or value that cannot be used."""


class DoesNotFit(AirloomError):
    """A call needs more memory than its device has."""


class DeviceLost(AirloomError):
    """A value was asked for that went away with its device; `device` names the one that left."""

    def __init__(self, device: str, message: str | None = None) -> None:
        super().__init__(message or f"device '{device}' left before its value arrived; use node.first to go on without it")
        self.device = device


class Unsupported(AirloomError):
    """An engine, a verb, a method or an option that do not go together."""


class RecordError(AirloomError):
    """A record or checkpoint that is damaged, truncated or not ours."""


class WireError(AirloomError):
    """A message of another machine that is damaged, too large or not allowed; it was refused and changed nothing."""


class MissingExtra(AirloomError):
    """An optional dependency is not installed; `extra` is what to install."""

    def __init__(self, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'airloom[{extra}]'")
        self.extra = extra


class RunFailed(AirloomError):
    """A run that began and could not go on (diverged training, deadlock, a failing device function)."""
