"""README and docs: every command can be typed, every named test exists, the site builds."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmexp import cli
from rmexp.config_files import config_dir, sweeps_dir
from rmexp.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def console_commands(page: Path) -> Iterator[tuple[int, str]]:
    """The commands behind a dollar sign, with the line each begins at."""
    text, inside = "", False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and (line.startswith("$ ") or text):
            if not text:
                start = number
            text += line.removeprefix("$ ").removesuffix("\\")
            if not line.endswith("\\"):
                yield start, text
                text = ""
    assert not text, page


TYPED = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}:{line}")
    for page in PAGES
    for line, command in console_commands(page)
]
RMEXP = [c for c in TYPED if re.match(r"(\S+/)?rmexp ", c.values[0])]


class Parsed(Exception):
    """An argparse command has taken its words."""


def check_overrides(config_name: str, words: list[str]) -> None:
    """Compose what a Hydra command would, and check it against the schema; nothing runs."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rmexp.sweep import launch
    from rmexp.sweep.config_store import COMMANDS, register
    from rmexp.sweep.hydra_sweeper import option_keys
    from rmexp.sweep.schema import StudyConfig
    from rmexp.trial.schema import checked, trial_config

    options = get_args_parser().parse_args(words)
    GlobalHydra.instance().clear()
    register(sweeps_dir())
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = OverridesParser.create(loader).parse_overrides(options.overrides)
        if options.multirun:
            names = [o.value() for o in overrides if o.key_or_group == "sweep"]
            launch.plan_sweep(
                overrides,
                lambda strings: compose(config_name, list(strings)),
                lambda group: list(loader.get_group_options(group)),
                lambda group, option: option_keys(loader, group, option),
                names[0] if names else None,
            )
            return
        plain = launch.plain_config(compose(config_name, options.overrides))
    if config_name == "train":
        trial = {k: v for k, v in plain.items() if k in launch.TRIAL_KEYS}
        trial_config(trial)
        checked(StudyConfig, {k: v for k, v in plain.items() if k not in launch.TRIAL_KEYS})
        return
    if config_name == "compare":
        plain |= {"models": ["a", "b"], "names": ["a", "b"]}
    checked(COMMANDS[config_name], plain)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are parsed and composed as they are, and stop there."""
    for module in (cli.models, cli.raters, cli.adapters):
        monkeypatch.setattr(
            module, "run_composed", lambda name, words, task: check_overrides(name, words)
        )
    # Hydra's own parser is named by this, which commands that ran in this process have set.
    monkeypatch.setattr(sys, "argv", ["pytest"])
    # The files that a page names are the reader's.
    monkeypatch.setattr("rmexp.sweep.launch.check_before_anything_heavy", lambda config: None)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: object) -> argparse.Namespace:
        options = parse(self, *given)  # type: ignore[call-overload]
        if self.prog.startswith("rmexp "):
            raise Parsed
        return options

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def complaint(command: str) -> str | None:
    """What the command line has against a command; None where it takes it."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = shlex.split(command, comments=True)
    if words[1] not in cli.COMMANDS:
        return f"no command {words[1]}"
    try:
        cli.COMMANDS[words[1]](words[2:])
    except Parsed:
        return None
    except (UserError, HydraException, OmegaConfBaseException, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("command", RMEXP)
def test_a_command_of_a_page_can_be_typed(command: str) -> None:
    assert complaint(command) is None


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    "command",
    [
        "rmexp unheard_of",
        "rmexp train gama=0.5",
        "rmexp train -m 'gama=choice(0,1)'",
        "rmexp train data=jsonl",
        "rmexp sweep sweep=unheard_of",
        "rmexp best starter --jason",
        "rmexp rate shards=two",
        "rmexp rules audit rater=unheard_of",
    ],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    assert complaint(command) is not None


def test_every_command_stands_in_a_page() -> None:
    named = {shlex.split(c.values[0], comments=True)[1] for c in RMEXP}
    assert set(cli.COMMANDS) <= named


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {c.values[0].split()[1] for c in TYPED if c.values[0].startswith("make ")}
    assert used <= targets


def test_every_test_that_the_traps_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/traps.md").read_text())
    assert len(named) > 40
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"


def test_extras_that_the_pages_install_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    used = {
        name.strip()
        for page in PAGES
        for found in re.findall(r"rmexp\[([\w, -]+)\]", page.read_text(encoding="utf-8"))
        for name in found.split(",")
    }
    assert used
    assert used <= known


def test_the_picture_of_the_flow_is_what_its_script_draws() -> None:
    import runpy

    made = runpy.run_path(str(ROOT / "docs/images/make_flow.py"))
    assert made["OUT"].read_text(encoding="utf-8") == made["flow"]()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.search(r'<(script|img|iframe|link)[^>]* (src|href)="(https?:)?//', html), page
        assert "&gt;&gt;&gt; </p>" not in html
    api = (tmp_path / "site" / "api" / "labelling.html").read_text(encoding="utf-8")
    assert "critical_rules" in api
