"""Endpoints of users and repositories: who am I, create, delete, settings, cards."""

from __future__ import annotations

from typing import Any

import yaml

from localhub.answers import Answer, Call, Refusal, as_json
from localhub.repos import Hub, Repo


def whoami(hub: Hub, call: Call) -> Answer:
    if call.user is None:
        raise Refusal(401, "Invalid user token.")
    orgs = [
        {"type": "org", "id": f"org-{name}", "name": name, "fullname": name, "roleInOrg": members[call.user]}
        for name, members in hub.orgs.items()
        if call.user in members
    ]
    token = {"displayName": call.role, "role": call.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    return as_json(
        {
            "type": "user",
            "id": f"user-{call.user}",
            "name": call.user,
            "fullname": call.user.title(),
            "isPro": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def _named(hub: Hub, call: Call) -> tuple[str, str, str]:
    """Kind, namespace and name that the body of a create or delete names."""
    user, asked = hub.need_user(call), call.json()
    kind = asked.get("type") or "model"
    if kind not in ("dataset", "model"):
        raise Refusal(400, f"Invalid repo type: {kind}")
    return kind, asked.get("organization") or user, asked["name"]


def create(hub: Hub, call: Call) -> Answer:
    kind, namespace, name = _named(hub, call)
    if not hub.may_write(call.user, namespace):
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    asked = call.json()
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo = hub.create(kind, namespace, name, str(call.user), private)
    prefix = "datasets/" if kind == "dataset" else ""
    url = f"{call.origin}/{prefix}{namespace}/{name}"
    if repo is None:
        message = f"You already created this {kind} repo"
        return as_json({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return as_json({"url": url, "name": repo.id, "id": repo.id})


def delete(hub: Hub, call: Call) -> Answer:
    repo = hub.find(call, *_named(hub, call))
    hub.need_writer(call, repo)
    hub.delete(repo)
    return as_json({})


def settings(hub: Hub, call: Call, repo: Repo) -> Answer:
    hub.need_writer(call, repo)
    asked = call.json()
    with repo.lock:
        if "visibility" in asked:
            repo.meta["private"] = asked["visibility"] == "private"
        if "private" in asked:
            repo.meta["private"] = bool(asked["private"])
        if "gated" in asked:
            if asked["gated"] not in ("auto", "manual", False):
                raise Refusal(400, "gated must be auto, manual or false")
            repo.meta["gated"] = asked["gated"]
        repo.save()
    return as_json({"private": repo.meta["private"], "gated": repo.meta["gated"]})


def grant(hub: Hub, call: Call, repo: Repo) -> Answer:
    """Let a user through the gate."""
    hub.need_writer(call, repo)
    user = call.json().get("user")
    if user not in hub.users:
        raise Refusal(404, f"No such user: {user}")
    with repo.lock:
        repo.meta["granted"] = sorted({*repo.meta["granted"], user})
        repo.save()
    return as_json({})


def auth_check(hub: Hub, call: Call, repo: Repo, write: bool) -> Answer:
    hub.need_gate_key(call, repo)
    if write:
        hub.need_writer(call, repo)
    return as_json({})


def front_matter(text: str) -> dict[str, Any]:
    """The YAML on top of a card; empty where there is none. Raises ValueError where it does not parse."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.rstrip() for line in lines[1:]):
        return {}
    end = next(k for k, line in enumerate(lines[1:], 1) if line.rstrip() == "---")
    try:
        data = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError("the metadata must be a mapping")
    return data or {}


def card_errors(card: dict[str, Any]) -> list[str]:
    """What the Hub would not take in a card's metadata, the parts that it checks strictly."""
    found = []
    for name in ("tags", "language", "license", "task_categories"):
        value = card.get(name)
        items = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(item, str) for item in items):
            found.append(f'"{name}" must be a string or an array of strings')
    configs = card.get("configs")
    if configs is not None:
        if not isinstance(configs, list):
            found.append('"configs" must be an array')
        elif not all(isinstance(item, dict) and isinstance(item.get("config_name"), str) for item in configs):
            found.append('"configs[].config_name" is required')
    return found


def validate_yaml(call: Call) -> Answer:
    try:
        card = front_matter(call.json().get("content", ""))
        errors = card_errors(card)
    except ValueError as error:
        card, errors = {}, [str(error)]
    warnings = [] if card or errors else ["empty or missing yaml metadata in repo card"]
    said = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return as_json(said, 400 if errors else 200)
