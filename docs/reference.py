"""Writes the reference of the library from its docstrings: ``python docs/reference.py > docs/python.md``.

Tools that do this for a site (Sphinx, mkdocstrings) make pages that need a server or a build; this one is read where it
lies, and a test sees that it is what the docstrings say.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import embedstore
from embedstore import errors
from embedstore.check import VerifyReport
from embedstore.query.hits import Hits
from embedstore.query.recall import RecallReport
from embedstore.query.tuning import Candidate, TuneReport
from embedstore.truth.compact import CompactReport
from embedstore.types import AddReport, Failure, Hit, Item, Latent, Metric

_HEAD = """# The library

All of it, as the docstrings have it (`help(store.search)` says the same). What it is for, by example, is in the
[README](../README.md); what the answers mean is in [latents.md](latents.md) and [discovery.md](discovery.md), what a
filter may say in [filters.md](filters.md), and what can be indexed in [sources.md](sources.md).

A mistake of the caller's raises an `EmbedstoreError`, whose text is one sentence: what is at fault, and the way out.
"""
#: Methods of the store in the order of its use; what no line names comes last.
_GROUPS = {
    "Putting in": "index add add_vectors update delete build",
    "Getting out": "get count ids images export",
    "Searching": "search item recall",
    "Latents": "encode decode reconstruct vector mean medoid evaluate most_similar support",
    "Directions and edits": "direction directions remove_direction edit film",
    "Paths and samples": "interpolate compare_paths grid sample",
    "Clusters": "cluster clustering clusters clusterings name_cluster use_clustering remove_clustering",
    "Maps": "map maps places unmap remove_map",
    "Duplicates, outliers, wrong labels": "duplicates delete_duplicates outliers mislabeled",
    "Pictures and pages": "report draw_map draw_grid draw_clusters write_map write_clusters",
    "Upkeep": "info verify compact tune backup close",
}
_TYPES = (
    Item,
    Latent,
    Metric,
    Hits,
    Hit,
    AddReport,
    Failure,
    RecallReport,
    TuneReport,
    Candidate,
    VerifyReport,
    CompactReport,
)
_ENTRY = re.compile(r"^([*\w, ]+):")
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$", re.MULTILINE)


def reference() -> str:
    """The page, as Markdown."""
    lines = [_HEAD, "## Opening a store\n"]
    lines += _function(embedstore.create, "embedstore.create")
    lines += _function(embedstore.open, "embedstore.open")
    named = [name for names in _GROUPS.values() for name in names.split()]
    methods = [name for name, _ in inspect.getmembers(embedstore.Store, inspect.isfunction) if name[0] != "_"]
    if missing := sorted(set(methods) ^ set(named)):
        raise SystemExit(f"docs/reference.py: put {', '.join(missing)} into a group, or take them out")
    for title, names in _GROUPS.items():
        lines.append(f"## {title}\n")
        for name in names.split():
            lines += _function(getattr(embedstore.Store, name), f"store.{name}")
    lines.append("## What is given and returned\n")
    for one in _TYPES:
        lines += [f"### `{one.__name__}`\n", *_text(one)]
        for name, member in vars(one).items():
            if name[0] != "_" and inspect.isfunction(member) and not isinstance(vars(one)[name], classmethod):
                lines += [f"`.{name}{_signature(member)}`: {_summary(member)}\n"]
            elif name[0] != "_" and isinstance(member, property):
                lines += [f"`.{name}`: {_summary(member)}\n"]
    lines += ["## Errors\n", "All are `embedstore.EmbedstoreError`s, of `embedstore.errors`.\n"]
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.EmbedstoreError) and error is not errors.EmbedstoreError:
            lines.append(f"- `{name}`: {_summary(error)}")
    return "\n".join(lines).rstrip() + "\n"


def _function(function: Callable[..., Any], name: str) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield f"```text\n{_wrapped(name + _signature(function))}\n```\n"
    yield from _text(function)


def _signature(function: Callable[..., Any]) -> str:
    """The signature without ``self``."""
    found = inspect.signature(function)
    own = [one for one in found.parameters.values() if one.name != "self"]
    text = str(found.replace(parameters=own))
    return re.sub(r"<[\w.]+: '?(\w+)'?>", r"'\1'", re.sub(r"(: |-> )'([^']*)'", r"\1\2", text))


def _wrapped(call: str) -> str:
    """A call on one line, or one parameter a line."""
    if len(call) <= 100:
        return call
    head, rest = call.split("(", 1)
    inside, back = rest.rsplit(")", 1)
    parts = re.split(r", (?=\*|\w+:)", inside)
    return f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"


def _text(thing: Any) -> Iterator[str]:
    """A docstring as Markdown: its prose, and its sections as lists."""
    parts = _SECTION.split(inspect.getdoc(thing) or "")
    yield _prose(parts[0]) + "\n"
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        entries = re.split(r"\n(?=\S)", textwrap.dedent(body).strip())
        listed = [" ".join(entry.split()) for entry in entries]
        if title in ("Args", "Attributes"):
            yield "\n".join("- " + _ENTRY.sub(r"`\1`:", entry).replace("``", "`") for entry in listed) + "\n"
        else:
            yield f"{title}: {_prose(' '.join(listed))}\n"


def _prose(text: str) -> str:
    """Paragraphs, each on one line; tables and lists as they are."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_paragraph(part) for part in paragraphs)


def _paragraph(part: str) -> str:
    if part.startswith("=="):
        return f"```text\n{part}\n```"
    if re.search(r"^\s*[*-] ", part, re.MULTILINE):
        return part.replace("``", "`")
    return " ".join(part.split()).replace("``", "`")


def _summary(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()).replace("``", "`")


if __name__ == "__main__":
    print(reference(), end="")
