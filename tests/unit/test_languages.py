"""Toolchains beside Python, and the tags of the images that have them."""

from dataclasses import replace

import pytest

from pgrpo_ray import types
from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox.image import DEFAULT_TAG, image_tag
from pgrpo_ray.sandbox.languages import LANGUAGES, PYTHON, toolchain


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_build_turns_the_source_into_the_artifact(name):
    language = toolchain(name)
    assert language is LANGUAGES[name] and language.name == name
    assert language.source in language.build and language.artifact in language.build
    assert language.source != language.artifact
    assert language.packages and language.probe[0] == language.build[0]


def test_python_needs_no_toolchain():
    assert toolchain("python") is None
    assert image_tag(["python"]) == image_tag() == DEFAULT_TAG


def test_an_unknown_language_is_named_with_its_neighbour():
    with pytest.raises(DataError, match=r"'ccp'.*Did you mean 'cpp'"):
        toolchain("ccp")
    with pytest.raises(DataError, match="Known: cpp, python"):
        image_tag(["cobol"])


def test_the_tag_depends_on_the_set_of_languages():
    assert image_tag(["cpp"]) == image_tag(["python", "cpp", "cpp"]) != DEFAULT_TAG


def test_a_python_image_keeps_its_tag_when_a_compiler_changes(monkeypatch):
    before = image_tag(["cpp"])
    monkeypatch.setitem(LANGUAGES, "cpp", replace(LANGUAGES["cpp"], packages=("g++-13",)))
    assert image_tag(["cpp"]) != before
    assert image_tag() == DEFAULT_TAG


def test_problems_may_name_exactly_the_languages_that_can_be_run():
    assert {PYTHON, *LANGUAGES} == set(types.LANGUAGES)
