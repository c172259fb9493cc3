"""The one thing that pyproject.toml cannot say: how the README reads outside of the repository.

An index page shows the README alone, where links and pictures that are relative lead nowhere. No
public address of this repository is known that they could be made to point at.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

NOTE = (
    "*Files named here, such as `docs/commands.md` and the clips in `assets/`, are in the source "
    "distribution.*"
)


def outside_the_repository(readme: str) -> str:
    """The README with relative links as text and without relative pictures.

    Parameters
    ----------
    readme
        Markdown whose first line is the title. What stands in code blocks is left as it is.
    """
    blocks = re.split(r"(^```.*?^```$)", readme, flags=re.MULTILINE | re.DOTALL)
    blocks[::2] = [_without_relative_links(text) for text in blocks[::2]]
    title, _, text = "".join(blocks).partition("\n")
    return f"{title}\n\n{NOTE}\n{text}"


def _without_relative_links(text: str) -> str:
    text = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n?", "", text, flags=re.MULTILINE)
    return re.sub(r"(\(?)\[([^\]]*)\]\((?!https?:)([^)\s]*)\)", _as_text, text)


def _as_text(link: re.Match[str]) -> str:
    bracket, words, target = link.groups()
    path = target.partition("#")[0]
    if not path or words == path:  # a heading of the same page, or a file by its name
        return f"{bracket}{words}"
    return f"({words}: `{path}`" if bracket else f"{words} (`{path}`)"


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=outside_the_repository(readme),
        long_description_content_type="text/markdown",
    )
