"""README and docs: what they link to is there, the words are plain, and every command is one that its program takes."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training_step import method_config
from lacy_jax import flags
from lacy_jax.evidence.study.plan import load_study
from tests.docs_commands import DOORS, PAGES, ROOT, Command, all_commands, shell_commands

# How newcomers stumbled, in every page; what to write in its place.
STUMBLES = {
    r"\btells?\b|\btold\b": "shows, says",
    r"\ba (token|word|phrase) a call\b": "one token per call",
    r"\botherwise\b": "differently, without it",
    r"\bbehind\b": "after",
    r"\bunless told\b": "by default",
}
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
# In place of an argument: what only its reader knows.
BLANK = re.compile(r"\.\.\.|<field>|<section>")
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = all_commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_words_are_plain(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    for stumble, better in STUMBLES.items():
        found = re.search(f".*(?:{stumble}).*", text)
        assert found is None, f"{page.name}: {found and found[0]!r}; better: {better}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def anchors(page: Path) -> set[str]:
    """Those that a page's headings give, as GitHub makes them."""
    titles = HEADING.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_pages_that_the_code_names_are_there() -> None:
    sources = [*ROOT.glob("lacy_jax/**/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("benchmarks/*.py")]
    named = {page for path in sources for page in re.findall(r"\bdocs/\w+\.\w+", path.read_text())}
    assert len(named) > 10
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_every_page_is_found_from_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    reached = {name for name in LINK.findall(readme) if name.startswith("docs/")}
    for page in [ROOT / name for name in reached if name.endswith(".md")]:
        reached |= {f"docs/{name.partition('#')[0]}" for name in LINK.findall(page.read_text())}
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in reached]


def test_commands_are_found() -> None:
    """The search itself: a change of style must not hide commands from the tests below."""
    assert len(COMMANDS) > 100
    assert {command.module.removeprefix("lacy_jax.") for command in COMMANDS} > DOORS
    benchmarks = {f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")}
    no_commands = {"benchmarks.torch_step", "benchmarks.door", "benchmarks.__init__"}
    assert {command.module for command in COMMANDS} > benchmarks - no_commands


def test_what_exports_write_is_git_ignored() -> None:
    given = [word for command in COMMANDS if command.module == "lacy_jax.export" for word in command.arguments]
    folders = [f"{word.removeprefix('--out=')}/" for word in given if word.startswith("--out=")]
    assert folders
    for folder in (*folders, *(Path(folder).name + "/" for folder in folders)):  # in runs/, and beside the sources
        ignored = subprocess.run(["git", "check-ignore", "--quiet", folder], cwd=ROOT, check=False)
        assert ignored.returncode == 0, folder


def of_doors(command: Command) -> bool:
    return command.module.removeprefix("lacy_jax.") in DOORS


def test_other_programs_are_there() -> None:
    """Those that are no doors take no arguments; those of lacy_jax.lm_eval are lm-evaluation-harness' own."""
    others = {c for c in COMMANDS if c.module.startswith("lacy_jax.") and not of_doors(c)}
    of_harness = {command for command in others if command.module == "lacy_jax.lm_eval"}
    assert {(command.module, command.arguments) for command in others - of_harness} == {("lacy_jax.settings_page", ())}
    assert all(command.arguments[:2] == ("--model", "lacy_jax") for command in of_harness)


@pytest.mark.parametrize("command", [c for c in COMMANDS if of_doors(c)], ids=str)
def test_doors_take_their_commands(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, config files with their arguments, settings and their values, studies and decodes."""
    monkeypatch.chdir(ROOT)
    door = importlib.import_module(command.module).DOOR
    blank = [word for word in command.arguments if BLANK.search(word.partition("=")[2] or word)]
    known = {name for flag in door.flags for name in flag.names} | {"config.<section>.<setting>"}
    for word in blank:
        assert word == "..." or word.removeprefix("--").partition("=")[0] in known
    if blank or not command.arguments:
        return  # `python -m lacy_jax.main ...`: not whole
    given = flags.parse(door.flags, command.arguments)  # what the machine lacks is not asked
    if getattr(given, "study", None):
        assert load_study(given.study).arms


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.module.startswith("benchmarks.")], ids=str)
def test_benchmarks_take_their_commands(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [command.module, *command.arguments])
    parse_args = argparse.ArgumentParser.parse_args
    parsed = []

    class Parsed(Exception):
        """Raised where the benchmark would begin."""

    def parse(*arguments: object) -> None:
        parsed.append(parse_args(*arguments))  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Parsed):
        importlib.import_module(command.module).main()
    if settings := getattr(parsed[0], "set", None):
        method_config(getattr(parsed[0], "config", "configs/biographies.py"), "ntp", settings)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=str)
def test_make_has_its_targets(command: Command) -> None:
    assert {word for word in command.arguments if "=" not in word} <= MAKE_TARGETS


def test_launch_scripts_are_there() -> None:
    """tests/launch runs those of README and docs/launch.md with --dry-run; no other page has one."""
    named = [command for command in COMMANDS if command.words[0].startswith("launch/")]
    assert named
    assert not [command for command in named if not (ROOT / command.words[0]).is_file()]
    assert {command.where for page in PAGES for command in shell_commands(page) if command in named} <= {
        "README.md",
        "docs/launch.md",
    }


def test_the_configs_that_scripts_name_are_there() -> None:
    scripts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("benchmarks/*.sh")]
    named = {name for script in scripts for name in re.findall(r"configs/\w+\.py(?::\w+)?\b(?!=)", script.read_text())}
    assert "configs/study_biographies.py:full" in named
    for name in named:
        if name.startswith("configs/study_"):
            load_study(name)
        else:
            assert (ROOT / name.partition(":")[0]).is_file(), name
