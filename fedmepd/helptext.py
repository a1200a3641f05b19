"""Help of commands, flowing: paragraphs as wide as the window, whatever the width of the source.

typer keeps the line breaks of every paragraph but the first, so that text written for 120 columns breaks twice where
80 are shown. Lists and indented lines stay as they are.
"""

from __future__ import annotations

import inspect

import typer

_KEPT = (" ", "- ", "* ", "|")  # such lines are no flowing text


def flow(app: typer.Typer) -> None:
    """Let the help of an application's commands flow, those of its groups included.

    Args:
        app: The application, with all its commands registered.
    """
    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback)
        if text:
            command.help = flowing(text)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)


def flowing(text: str) -> str:
    """Return a text whose paragraphs are one line each, but for those that keep their lines."""
    return "\n\n".join(map(_one, inspect.cleandoc(text).split("\n\n")))


def _one(paragraph: str) -> str:
    lines = paragraph.split("\n")
    return paragraph if any(line.startswith(_KEPT) for line in lines) else " ".join(paragraph.split())
