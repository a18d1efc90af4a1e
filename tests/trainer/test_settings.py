import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from trainer import RunSettings, UserError, parse
from trainer.settings import plain, require_same


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """A script's settings."""

    recipe: Literal["plain", "quick"] = "plain"
    lr: float = 0.1
    """learning rate"""


RECIPES = {"plain": {}, "quick": {"epochs": 2, "lr": 0.5}}


def call(*argv: str) -> Settings:
    return parse(Settings, argv, "prog", RECIPES)


def test_flags_defaults_and_recipes():
    assert call().epochs == 10
    assert call("--lr", "0.3", "--no-channels-last", "--out", "x") == Settings(
        lr=0.3, channels_last=False, out=Path("x")
    )
    assert call("--recipe", "quick") == Settings(recipe="quick", epochs=2, lr=0.5)
    assert call("--recipe=quick", "--lr", "0.2") == Settings(recipe="quick", epochs=2, lr=0.2)
    assert call("--lr", "0.2", "--recipe", "quick").lr == 0.2  # flags win over the recipe wherever they stand


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["--workers", "-2"], "--workers must be 0 or more, got -2"),
    ],
)
def test_impossible_values_name_the_flag(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        call(*argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--epoch", "3"], "--epoch"),
        (["--precision", "fp8"], "bf16"),
        (["--recipe", "slow"], "quick"),
        (["--lr", "x"], "lr"),
    ],
)
def test_wrong_flags_end_with_status_two_and_say_what_is_possible(argv, shown, capsys):
    with pytest.raises(SystemExit) as stop:
        call(*argv)
    assert stop.value.code == 2
    assert shown in "".join(capsys.readouterr())


def test_help_states_units_and_defaults(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "learning rate" in shown
    assert "default: 0.1" in shown


def test_plain_types():
    assert plain({"a": Path("b"), "c": (1, {2: None})}) == {"a": "b", "c": [1, {"2": None}]}


def test_resuming_needs_the_same_settings():
    saved = Settings().plain()
    require_same(Settings(resume=True, device="cpu", workers=3), saved, Path("last.pt"))
    with pytest.raises(UserError, match=r"last.pt: .*--lr was 0.1, is 0.2"):
        require_same(Settings(lr=0.2, resume=True), saved, Path("last.pt"))
