"""What the pages say, held against the program."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from calib import Config
from calib.cli import parser
from calib.model.flags import flags_markdown
from calib.simulate import PRESETS

ROOT = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_option_is_described() -> None:
    text = page("docs/command-line.md")
    usage = {
        line.split()[1]: line for line in re.sub(r"\n {20,}", " ", text).splitlines() if line.startswith("    calib ")
    }
    commands = next(a for a in parser()._actions if a.dest == "command").choices
    assert set(usage) == set(commands)
    for name, command in commands.items():
        options = {o for a in command._actions for o in a.option_strings if o.startswith("--")} - {"--help"}
        assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", usage[name])) == options
        for option in options:
            assert f"`{option}" in text or option in ("--seed", "--stars", "--preset", "--exposures")


def test_every_key_of_the_configuration_is_described_with_its_default() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", page("docs/command-line.md"), re.DOTALL)
    described = tomllib.loads(block)
    assert set(described) == {f.name for f in fields(Config)}
    default = Config().resolved()
    assert {k: v for k, v in described.items() if k != "columns"} == {
        k: v for k, v in default.items() if k != "columns"
    }


def test_every_preset_is_named() -> None:
    (line,) = re.findall(r"Presets: (.*?)\.", page("docs/command-line.md"), re.DOTALL)
    assert {name.split()[0] for name in line.split(",")} == set(PRESETS)


def test_flags_are_those_of_the_registry() -> None:
    assert flags_markdown() in page("docs/reading.md")


def test_every_dependency_has_its_licence() -> None:
    project = tomllib.loads(page("pyproject.toml"))["project"]
    named = page("docs/licences.md").lower()
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        assert re.split(r"[<>=]", requirement)[0] in named


def test_links_between_pages_lead_somewhere() -> None:
    for source in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", source.read_text(encoding="utf-8")):
            assert (source.parent / target).exists(), f"{source.name}: {target}"
