"""`init`: make an empty registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llreg import atomic
from llreg.atomic import STATE
from llreg.names import check_name, valid_name
from llreg.store.layout import BUILD, CONFIG, COPY, RECIPE, ROWS, STORE, SUBSETS, TEXTS
from llreg.texts.segments import Cuts
from llreg.texts.textset import TextSet, load_texts, to_parquet, without_texts
from llreg_schemas import conditional_protocol, make_view, modelmap_protocol, parse, pretty_json
from llreg_schemas.errors import InputError, storage_errors
from llreg_schemas.records import FINE_VERSION, REGISTRY_FORMAT, RENDERINGS, Rendering, now

# Written once and never edited, so that no contribution touches it.
# Only what is not JSON goes to large file storage: each file there costs a push two requests more.
GITATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in (f"{ROWS}/**/*.zip", f"{STORE}/**/c/**", f"{STORE}/**/c.*", "*.parquet")
)


def make_registry(
    path: str | Path,
    *,
    texts: str | Path = "mini",
    name: str | None = None,
    clip: float | None = None,
    licence: str = "CC0-1.0",
    prompt: Rendering | None = None,
) -> Path:
    """Make an empty registry and return its directory.

    Behind `llreg.init`, which describes parameters and errors.
    """
    root = Path(path).expanduser().resolve()
    with storage_errors(root):
        if (root / CONFIG).exists():
            raise InputError(f"{root} is a registry already; add to it with: llreg --registry {root} add MODEL")
    view = make_view(clip, estimator="fine")
    _refuse_foreign_files(root)
    text_set = load_texts(texts)
    cuts = Cuts.of(text_set.complete())
    text_set = replace(text_set, cuts=cuts)
    document = {
        "format": REGISTRY_FORMAT,
        "format_version": FINE_VERSION,
        "name": valid_name(root.name) if name is None else check_name(name),
        "licence": licence,
        "created": now(),
        "text_set": text_set.info.to_json(),
        "protocol": _protocol(text_set, prompt, str(texts)),
        "segments": cuts.document(text_set.info.id),
        "view": view,
    }
    parse("registry", pretty_json(document), CONFIG)
    prepare(root)
    if text_set.recipe is not None:
        atomic.write_atomic(root, root / RECIPE, pretty_json(text_set.recipe).encode())
        if not text_set.recipe["copy"]:  # the texts stay on this machine
            atomic.write_atomic(root, root / COPY, to_parquet(text_set))
            text_set = without_texts(text_set)
    atomic.write_atomic(root, root / TEXTS, to_parquet(text_set))
    # Last: a directory is a registry once this file is there.
    atomic.write_atomic(root, root / CONFIG, pretty_json(document).encode())
    return root


def _protocol(texts: TextSet, prompt: Rendering | None, label: str) -> dict[str, Any]:
    """The protocol that fits the texts."""
    if not texts.has_pairs:
        if prompt is not None:
            raise InputError(f"prompt {prompt!r} is for pairs of prompt and response; {label} holds texts")
        return modelmap_protocol(texts.info.id)
    if prompt not in RENDERINGS:
        raise InputError(
            f"{label} holds prompts: say how models shall see them, --prompt chat-template (through their own chat "
            f"template) or --prompt raw (as they are){'' if prompt is None else f'; got {prompt!r}'}"
        )
    conversation = next((k for k, pair in enumerate(texts.complete(), 1) if not isinstance(pair.prompt, str)), None)
    if prompt == "raw" and conversation is not None:
        raise InputError(
            f"{label}: the prompt of pair {conversation} is a list of messages, which only a chat template can render: "
            "use --prompt chat-template, or give prompts as text"
        )
    return conditional_protocol(texts.info.id, prompt)


def prepare(root: Path) -> None:
    """Make a directory in which a registry can be made: with what git must know, without files that it would overwrite."""
    _refuse_foreign_files(root)
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    _add_lines(root, ".gitattributes", GITATTRIBUTES)
    _add_lines(root, ".gitignore", f"{STATE}/\n")


def _refuse_foreign_files(root: Path) -> None:
    """A registry writes files of these names, and must not overwrite anybody's."""
    taken = [name for name in (TEXTS, RECIPE, *BUILD, ROWS, SUBSETS) if (root / name).exists()]
    if taken:
        raise InputError(
            f"{root} holds {', '.join(taken)} already, which a registry would overwrite: choose another directory"
        )


def _add_lines(root: Path, name: str, lines: str) -> None:
    """Add the lines that a file lacks; it may be the user's."""
    path = root / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in lines.splitlines() if line not in text.splitlines()]
    text += "\n" if text and not text.endswith("\n") else ""
    atomic.write_atomic(root, path, (text + "".join(f"{line}\n" for line in missing)).encode())
