"""Pairs of a prompt and a response: the items of a conditional text set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llreg_schemas.canonical import hash_json

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes
    ----------
    role : {"system", "user", "assistant"}
    content : str
    """

    role: str
    content: str


@dataclass(frozen=True)
class Pair:
    """A prompt and a response to it.

    Attributes
    ----------
    prompt : str or tuple of Message
        One message of a user, or a conversation that a user's message ends.
    response : str
    """

    prompt: str | tuple[Message, ...]
    response: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Pair:
        """The pair in an item that ``pair.schema.json`` accepts."""
        prompt = document["prompt"]
        if not isinstance(prompt, str):
            prompt = tuple(Message(entry["role"], entry["content"]) for entry in prompt)
        return cls(prompt, document["response"])

    def to_json(self) -> dict[str, Any]:
        """The pair as JSON: fields prompt and response."""
        prompt = self.prompt if isinstance(self.prompt, str) else [asdict(message) for message in self.prompt]
        return {"prompt": prompt, "response": self.response}

    @property
    def sha256(self) -> str:
        """sha256 of the canonical JSON of the pair, 64 hex digits."""
        return hash_json(self.to_json())

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a chat template takes it: a string is one message of the user."""
        if isinstance(self.prompt, str):
            return [{"role": "user", "content": self.prompt}]
        return [asdict(message) for message in self.prompt]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the response: what bits per byte are counted by."""
        return len(self.response.encode("utf-8"))

    @property
    def prompt_bytes(self) -> int:
        """UTF-8 bytes of the prompt; of a conversation, those of its messages' contents."""
        return sum(len(message["content"].encode("utf-8")) for message in self.messages)
