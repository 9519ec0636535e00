import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.config import recipe
from envkit.errors import InvalidInput, NotFound
from envkit.model.recipe import RecipeFile

MINIMAL = 'description = "x"\ndistribution = "debian"\nsuite = "bookworm"\n'


def read(tmp_path, text, name="site.toml"):
    path = tmp_path / name
    path.write_text(text)
    return recipe.read_recipe(str(path))


def test_a_minimal_recipe_is_minbase_with_nothing_on_top(tmp_path):
    found = read(tmp_path, MINIMAL)
    assert (found.name, found.suite, found.variant, found.packages, found.files) == (
        "site",
        "bookworm",
        "minbase",
        (),
        (),
    )


def test_files_come_with_content_and_mode(tmp_path):
    text = MINIMAL + '[files."/etc/a"]\ncontent = """\nline\n"""\n[files."/usr/bin/b"]\nmode = 0o755\ncontent = ""\n'
    assert read(tmp_path, text).files == (
        RecipeFile(path="/etc/a", content=b"line\n", mode=0o644),
        RecipeFile(path="/usr/bin/b", content=b"", mode=0o755),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MINIMAL + "packges = []\n", "unknown key 'packges'"),
        (MINIMAL + '[files."/a"]\ncontent = ""\nowner = "x"\n', "unknown key 'files./a.owner'"),
        (MINIMAL + '[files."/a"]\nmode = 0o644\n', "the key files./a.content is missing"),
        (MINIMAL + '[files."/a"]\ncontent = 3\n', "files./a.content must be a string"),
        (MINIMAL + '[files."/a"]\ncontent = ""\nmode = 0o4755\n', "mode of /a must be between 0o000 and 0o777"),
        (MINIMAL + '[files."/a"]\ncontent = ""\nmode = true\n', "mode of /a must be between 0o000 and 0o777"),
        (MINIMAL + '[files."a"]\ncontent = ""\n', "files has 'a', which is no absolute path"),
        (MINIMAL + '[files."/a/../b"]\ncontent = ""\n', "files has '/a/../b', which is no absolute path"),
        (MINIMAL + '[files."/"]\ncontent = ""\n', "files has '/', which is no absolute path"),
        (MINIMAL + 'files = "x"\n', "files must be a table of paths"),
        (MINIMAL + '[files]\n"/a" = "x"\n', "the file /a must be a table with content and mode"),
        (MINIMAL + 'packages = "less"\n', "packages must be a list of names"),
        (MINIMAL + 'packages = ["less", "--yes"]\n', "packages has '--yes', which is no package's name"),
        (MINIMAL + "packages = [3]\n", "packages has 3, which is no package's name"),
        (MINIMAL + 'packages = ["a,b"]\n', "packages has 'a,b', which is no package's name"),
        (MINIMAL + 'variant = "tiny"\n', "unknown variant 'tiny'"),
        (MINIMAL.replace("bookworm", "-x"), "suite '-x' is no codename"),
        (MINIMAL.replace('"debian"', '"slackware"'), "distribution 'slackware' cannot be built"),
        ('distribution = "debian"\nsuite = "sid"\n', "the key description is missing"),
        ("description = 3\n" + MINIMAL.partition("\n")[2], "description must be a string"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_and_key(tmp_path, text, problem):
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, text)
    assert caught.value.brief == f"{tmp_path}/site.toml: {problem}"


@pytest.mark.parametrize("text", ["=", "a = [", "\0"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, text):
    with pytest.raises(InvalidInput, match=r"cannot read the recipe .*site\.toml: "):
        read(tmp_path, text)


def test_a_directory_is_no_recipe(tmp_path):
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(InvalidInput, match=r"cannot read the recipe"):
        recipe.read_recipe(str(tmp_path / "a.toml"))


def test_the_administrators_recipe_comes_before_envkits(tmp_path):
    for directory, line in (("etc", "theirs"), ("builtin", "ours")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "debian-12.toml").write_text(MINIMAL.replace('"x"', f'"{line}"'))
    (tmp_path / "builtin/other.toml").write_text(MINIMAL)
    (tmp_path / "builtin/README.md").write_text("")
    directories = [str(tmp_path / name) for name in ("missing", "etc", "builtin")]
    assert recipe.recipe_names(directories) == ("debian-12", "other")
    assert recipe.load_recipe("debian-12", directories).description == "theirs"


def test_an_unknown_recipe_is_told_with_those_that_exist(tmp_path):
    (tmp_path / "debian-12.toml").write_text(MINIMAL)
    with pytest.raises(NotFound) as caught:
        recipe.load_recipe("debian-1", [str(tmp_path)])
    assert caught.value.brief == "there is no recipe for a base 'debian-1'"
    assert caught.value.resolution == "use one of debian-12"


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", "", "A"])
def test_a_name_that_is_a_path_is_no_recipe(tmp_path, name):
    with pytest.raises(InvalidInput, match=r"invalid name"):
        recipe.load_recipe(name, [str(tmp_path)])


@pytest.mark.parametrize(("name", "suite"), [("debian-12", "bookworm"), ("debian-13", "trixie")])
def test_envkits_own_recipes_are_found_and_right(name, suite):
    found = recipe.load_recipe(name, [recipe.BUILTIN_DIRECTORY])
    assert found.suite == suite
    assert {"ca-certificates", "python3", "python3-pip"} <= set(found.packages)
    assert list(found.packages) == sorted(found.packages)
    by_path = {file.path: file for file in found.files}
    assert by_path["/usr/sbin/policy-rc.d"].content == b"#!/bin/sh\nexit 101\n"
    assert by_path["/usr/sbin/policy-rc.d"].mode == 0o755
    assert b"break-system-packages = true" in by_path["/etc/pip.conf"].content


def test_envkits_own_recipes_differ_in_the_release_only():
    twelve, thirteen = (recipe.load_recipe(name, [recipe.BUILTIN_DIRECTORY]) for name in ("debian-12", "debian-13"))
    assert set(twelve.packages) - set(thirteen.packages) == {"usr-is-merged"}
    assert twelve.files == thirteen.files


@given(st.text())
def test_any_text_is_a_recipe_or_invalid_input(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("recipes") / "a.toml"
    path.write_text(MINIMAL + text, encoding="utf-8", errors="surrogateescape")
    try:
        assert recipe.read_recipe(str(path)).name == "a"
    except InvalidInput as error:
        assert str(path) in error.brief
