"""The help of every command: a text and the true default for each option, the most needed ones of train first."""

import argparse
import re
import shlex

import pytest

from timm_gcp.__main__ import COMMANDS, main
from timm_gcp.commands.help_formatter import shown_default
from timm_gcp.commands.parser import Parser
from timm_gcp.commands.train import parse_train_args
from timm_gcp.commands.train_options import EXAMPLE, train_parser

NOTHING = (None, "", [], {}, argparse.SUPPRESS)


@pytest.fixture
def parser_of(monkeypatch):
    """The parser that a command makes, by the command's name."""

    def parser_of(command):
        if command == "train":
            return train_parser()
        made = []
        with monkeypatch.context() as patch:
            patch.setattr(Parser, "print_help", lambda parser, file=None: made.append(parser))
            with pytest.raises(SystemExit):
                main([command, "--help"])
        return made[0]

    return parser_of


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text_and_its_default(command, parser_of):
    parser = parser_of(command)
    formatter = parser._get_formatter()
    for action in parser._actions:
        name = action.option_strings or action.metavar or action.dest
        assert action.help, name
        shown = formatter._expand_help(action)
        assert len(shown.split(" (default: ")[0]) > 5, name
        if action.option_strings and not action.required and action.default is not argparse.SUPPRESS:
            assert shown.count("(default: ") == 1, name
        if action.default not in NOTHING:
            assert f"(default: {shown_default(action.default)})" in shown, name


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_generated(command, parser_of):
    for action in parser_of(command)._actions:
        if action.default not in NOTHING:
            assert "default: " not in action.help.replace("(default: %(default)s)", ""), action.dest


def test_help_shows_a_changed_default():
    parser = Parser(prog="x")
    parser.add_argument("--warmup-epochs", type=float, help="length (default: a fifth of the run)")
    parser.add_argument("--share", type=float, default=0.5, help="80 % of it")
    parser.set_defaults(warmup_epochs=3.0)
    text = parser.format_help()
    assert "length (default: 3)" in text
    assert "a fifth" not in text
    assert "80 % of it (default: 0.5)" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\ban? (line|image|batch|class) an? \w+", text)


def test_train_shows_first_what_people_need(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = train_parser().format_help()
    head = text[: text.index("\nData:")]
    assert len(head.splitlines()) < 60
    for option in ("DIR", "--model", "--pretrained", "--recipe", "--epochs", "-b N", "--lr LR", "--img-size"):
        assert f"\n  {option}" in head
    for option in ("--device", "--output", "--experiment", "--resume", "-c FILE"):
        assert f"\n  {option}" in head
    assert EXAMPLE in head


def test_the_example_parses():
    command = shlex.split(EXAMPLE.replace("\\\n", " "))
    args, _ = parse_train_args(command[2:])
    assert (args.data_dir, args.batch_size, args.epochs) == ("photos", 16, 30)
