"""Recipes are what the paper and the released code state: docs/paper/recipe.csv, row by row."""

import csv
from pathlib import Path

import pytest

from softvq_lab.core import ConfigError
from softvq_lab.settings.parse import flatten, parse
from softvq_lab.settings.recipes import RECIPES, Stated
from softvq_lab.settings.workflows import WORKFLOWS

ROWS = list(csv.DictReader(open(Path(__file__).parents[1] / "docs" / "paper" / "recipe.csv")))
STATED = ("paper", "released")  # 'pictures' is ours
OURS = {"log_every", "eval_every", "checkpoint_every"}  # what a recipe sets of its own


def settings_of(recipe: str, part: str) -> dict:
    "The checked settings of a part ('tokenizer', 'sit', 'sit L', 'evaluate', ...), flat."
    what, _, size = part.partition(" ")
    given = {"recipe": recipe} | ({"size": size} if size else {})
    if what == "tokenizer":
        return flatten(parse(WORKFLOWS["train"], given | {"data_path": "imagenet"}))
    if what in WORKFLOWS:
        return flatten(parse(WORKFLOWS[what], given))
    return flatten(parse(WORKFLOWS["train_generator"], given | {"generator": what}))


def value_of(text: str, like) -> object:
    "A cell as a value of the type of `like`."
    if isinstance(like, bool):
        return text == "True"
    return type(like)(float(text)) if isinstance(like, int | float) else text


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['part']}-{r['setting']}".replace(" ", "-"))
def test_a_recipe_has_the_stated_value_or_the_row_says_why_not(row):
    for recipe in STATED:
        ours = settings_of(recipe, row["part"])[row["setting"]]
        if row[recipe]:
            assert row[f"{recipe}_source"] or row["note"]
            assert ours == value_of(row[recipe], ours)
        else:
            assert recipe == "paper" and row["note"], "a silent paper needs a note"


@pytest.mark.parametrize("recipe", STATED)
def test_every_value_of_a_recipe_has_its_row(recipe):
    listed = {(r["part"].split()[0], r["setting"]) for r in ROWS}
    for (what, *more), values in RECIPES[recipe].items():
        for name, stated in values.items():
            assert isinstance(stated, Stated) and stated.source
            assert (what, name) in listed or name in OURS, f"{what} {more}: {name}"


def test_silent_means_the_released_code():
    "Where the paper says nothing, its recipe has the released value, or the note says which."
    for row in ROWS:
        if row["note"] == "paper silent":
            paper, released = (settings_of(r, row["part"])[row["setting"]] for r in STATED)
            assert paper == released or row["setting"] == "seed"


@pytest.mark.parametrize("given", [{}, {"size": "L"}, {"generator": "dit"}, {"generator": "mar"}])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_given_beats_the_recipe(recipe, given):
    c = parse(
        WORKFLOWS["train_generator"], {"recipe": recipe, "steps": 7, "warmup_steps": 3} | given
    )
    assert (c.optim.steps, c.optim.warmup_steps) == (7, 3)


def test_other_quantizers_share_the_recipe_but_not_what_is_softvqs_own():
    for quantizer in ("vq", "ae", "kl"):
        t = settings_of("paper", "tokenizer") | flatten(
            parse(
                WORKFLOWS["train"],
                {"recipe": "paper", "data_path": "imagenet", "quantizer": quantizer},
            )
        )
        assert (t["similarity"], t["groups"], t["kl_logits"]) == ("cosine", 1, "fixed")
        assert (t["steps"], t["align"], t["adv"]) == (250_000, "dinov2", "dino")


def test_a_recipe_needs_its_images_and_a_generator_that_it_knows(tmp_path):
    with pytest.raises(ConfigError, match="needs data_path"):
        parse(WORKFLOWS["train"], {"recipe": "paper"})
    with pytest.raises(ConfigError, match="Did you mean 'released'"):
        parse(WORKFLOWS["train"], {"recipe": "relased"})
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from softvq_lab.generators.sit import SiT\n"
        "from softvq_lab.registry import register\n\n\n"
        "@register('generator', 'mine', sizes=('tiny',))\nclass Mine(SiT):\n    'A generator.'\n"
    )
    with pytest.raises(ConfigError, match="recipe='paper' says nothing of 'mine'"):
        parse(
            WORKFLOWS["train_generator"],
            {"recipe": "paper", "generator": "mine", "plugins": str(plugin)},
        )


def test_pictures_are_emoji_unless_one_has_ones_own(tmp_path):
    t = settings_of_pictures({})
    assert (t["dataset"], t["image_size"], t["tokens"]) == ("emoji", 64, 64)
    own = settings_of_pictures({"dataset": "folder", "data_path": str(tmp_path), "tokens": 32})
    assert (own["dataset"], own["tokens"], own["optimizer"]) == ("folder", 32, "muon")


def settings_of_pictures(given: dict) -> dict:
    return flatten(parse(WORKFLOWS["train"], {"recipe": "pictures"} | given))
