"""Help flows: no line breaks of the source, lists as they are."""

from __future__ import annotations

import pytest
import typer

from fedmepd.helptext import flow, flowing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\n    sentence.", "One sentence."),
        ("First.\n\n    Second\n    goes on.", "First.\n\nSecond goes on."),
        ("First.\n\n    - one\n    - two", "First.\n\n- one\n- two"),
        ("First.\n\n    Layout:\n      a  b", "First.\n\nLayout:\n  a  b"),
    ],
)
def test_paragraphs_are_one_line_and_lists_stay(text: str, expected: str) -> None:
    assert flowing(text) == expected


def test_commands_of_groups_flow_too() -> None:
    def command() -> None:
        """First.

        Second
        goes on.
        """

    app, group = typer.Typer(), typer.Typer()
    group.command("inner")(command)
    app.command("outer", help="A\nb.")(command)
    app.add_typer(group, name="group")
    flow(app)
    assert [one.help for one in (*app.registered_commands, *group.registered_commands)] == [
        "A b.",
        "First.\n\nSecond goes on.",
    ]
