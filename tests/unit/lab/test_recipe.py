"""The image's key changes with whatever changes the image."""

from __future__ import annotations

import dataclasses

import pytest

from farshore.lab.recipe import GuestRecipe, guest_files, guest_folder


def test_the_same_recipe_has_the_same_key() -> None:
    assert GuestRecipe().key() == GuestRecipe().key()


@pytest.mark.parametrize(
    "change", [{"disk_bytes": 3 << 30}, {"kernel_options": "quiet"}, {"packages": ("udev",)}, {"database_scale": 6}]
)
def test_another_recipe_has_another_key(change: dict) -> None:
    assert dataclasses.replace(GuestRecipe(), **change).key() != GuestRecipe().key()


def test_every_placeholder_of_the_guest_files_is_known() -> None:
    recipe = GuestRecipe()
    filled = [recipe.fill((guest_folder() / name).read_text()) for name in guest_files() if "customise" not in name]
    assert filled
    assert not [text for text in filled if "@" in text]
    assert any(recipe.root_uuid in text for text in filled)
