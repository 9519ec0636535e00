"""What people do with versions: go back, clone, rename, tag, describe, squash, delete and bring back."""

import itertools
import json
import os

import pytest

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_numbers = itertools.count()
_LOOK = "cd /; find opt usr/share etc/marks | sort; cat $(find opt usr/share etc/marks -type f | sort)"
_STEPS = (
    "mkdir /etc/marks; echo 1 >/opt/x; rm -r /usr/share/doc; echo l >/opt/l1; ln /opt/l1 /opt/l2; echo 1 >/etc/marks/a",
    "rm /opt/x; mkdir /usr/share/doc; echo n >/usr/share/doc/n; mkdir /opt/x; echo in >/opt/x/in; rm /etc/marks/a",
    "rm /usr/share/old /opt/l1; rm -r /opt/x; echo 3 >/opt/x; touch /etc/marks/b; echo more >>/opt/l2",
)


@pytest.fixture
def name():
    """A name that no environment has yet."""
    return f"versions-{next(_numbers)}"


@pytest.fixture(scope="module")
def model(shared, tiny):
    """An environment of three versions, each with a layer of its own; tests work on others that are made of it."""
    shared("create", "model", "--base", tiny, "-d", "for tests", "--", "sh", "-c", _STEPS[0]).ok()
    shared("save", "model", "-m", "step 1", "--close").ok()
    for number, step in enumerate(_STEPS[1:], 2):
        shared("create", "model", "--from", "model", "--", "sh", "-c", step).ok()
        shared("save", "model", "-m", f"step {number}", "--close").ok()
    return "model"


@pytest.fixture
def env(envkit, model, name):
    """An environment with two versions that differ."""
    envkit("clone", f"{model}@3", name).ok()
    with envkit.session(name, origin=name, script="echo 4 >/opt/four"):
        envkit("save", name, "-m", "second").ok()
    return name


def _log(envkit, name):
    """Return the history of an environment, without what says its name and that of its writer's moment."""
    return [
        {key: value for key, value in row.items() if key not in ("environment", "parent", "origin")}
        for row in envkit.json("log", name)
    ]


# Descriptions and tags


def test_the_description_of_an_environment_is_kept_and_changed(envkit, model, name):
    envkit("clone", model, name).ok()
    assert envkit.json("info", name)["description"] == "for tests"
    assert envkit("describe", name, "our\tsolver").stderr == f"lab/{name}: our\\tsolver\n"
    (row,) = [row for row in envkit.json("list") if row["environment"] == f"lab/{name}"]
    assert (row["version"], row["description"]) == (1, "our\tsolver")
    assert "our\\tsolver" in envkit("list").ok()
    assert envkit("log", name).stderr == "our\\tsolver\n"
    with envkit.session(name, origin=name, script="touch /opt/new"):
        envkit("describe", name, "while it is open").ok()
        assert envkit("save", name).ok() == f"lab/{name}@4"
    assert envkit.json("info", name)["description"] == "while it is open"
    assert [row["description"] for row in envkit.json("log", name)] == ["while it is open", "for tests"]
    assert envkit("describe", name, "").stderr == f"lab/{name} has no description\n"
    assert envkit.json("info", name)["description"] == ""
    envkit("describe", f"{name}@1", "text").fails(2, "the description is the environment's", f"give '{name}' alone")
    envkit("describe", "nothing", "text").fails(3, "no environment lab/nothing")


def test_a_tag_stands_where_a_number_can(envkit, model, name):
    envkit("clone", f"{model}@1", name).ok()
    assert envkit("tag", name, "stable").stderr == f"lab/{name}@stable means lab/{name}@1\n"
    with envkit.session(name, origin=f"{name}@stable", script="touch /opt/new"):
        assert envkit.json("status", name)[0]["on"] == f"lab/{name}@1"
        envkit("tag", name, "stable").ok()
        assert envkit("save", name).ok() == f"lab/{name}@3"
    ref = f"{name}@stable"
    assert envkit.sh(ref, "ls /opt; echo $ENVKIT_ENVIRONMENT").ok() == f"l1\nl2\nx\nlab/{name}@1"
    assert envkit.json("info", ref)["version"] == 1
    assert "/opt/new" not in {row["path"] for row in envkit.json("files", ref)}
    assert envkit.json("diff", ref, name)["files"]
    moved = envkit("tag", name, "stable")
    assert moved.stderr == f"lab/{ref} means lab/{name}@3, no longer lab/{name}@1\n"
    assert envkit.sh(ref, "ls /opt").ok() == "l1\nl2\nnew\nx"
    assert envkit("tag", name, "stable").stderr == f"lab/{ref} means lab/{name}@3 already\n"
    assert envkit.json("tag", f"{name}@1", "first") == {
        "environment": f"lab/{name}",
        "tag": "first",
        "version": 1,
        "before": None,
    }
    assert {row["version"]: row["tags"] for row in envkit.json("log", name)} == {3: ["stable"], 1: ["first"]}
    assert " first " in envkit("log", name).ok()
    (row,) = [row for row in envkit.json("list") if row["environment"] == f"lab/{name}"]
    assert row["tags"] == ["stable"]
    assert envkit("delete", f"{name}@first", "--yes").stderr.startswith(f"deleted lab/{name}@1;")
    envkit("info", f"{name}@first").fails(3, f"the tag first of lab/{name} means lab/{name}@1, which was deleted")
    assert envkit("tag", name, "stable", "--remove").stderr == f"removed the tag stable; lab/{name}@3 stays\n"
    envkit.sh(ref, "true").fails(125, f"lab/{name} has no tag 'stable': it has first (@1)")


def test_tags_that_cannot_be_are_refused(envkit, model, name):
    envkit("clone", model, name).ok()
    before = _log(envkit, name)
    for bad in ("latest", "1", "V1", "a b", "-x", "a/b", "x" * 65):
        envkit("tag", name, "--", bad).fails(2, "invalid tag", "use 1 to 64 of")
    envkit("tag", f"{name}@9", "stable").fails(3, f"lab/{name} has no version 9")
    envkit("tag", f"{name}@other", "stable").fails(3, f"lab/{name} has no tag 'other': it has none")
    envkit("tag", "nothing", "stable").fails(3, "no environment lab/nothing")
    envkit("tag", name, "stable", "--remove").fails(3, f"lab/{name} has no tag 'stable'")
    envkit("tag", f"{name}@1", "stable", "--remove").fails(2, "a tag is removed from the environment")
    assert _log(envkit, name) == before


# New versions of old layers


def test_going_back_is_a_new_version_and_loses_nothing(envkit, env):
    assert envkit("rollback", env).code == 2
    outcome = envkit("rollback", f"{env}@1")
    assert outcome.ok() == f"lab/{env}@3"
    assert outcome.stderr == f"lab/{env}@3 is the same as lab/{env}@1\n"
    assert envkit.sh(env, "ls /opt").ok() == "l2\nx"
    assert envkit.sh(f"{env}@2", "ls /opt").ok() == "four\nl2\nx"
    envkit("rollback", f"{env}@1").fails(4, f"is what the latest version, lab/{env}@3, is already")
    envkit("rollback", f"{env}@3").fails(4, f"lab/{env}@3 is the latest version already")
    envkit("rollback", f"{env}@9").fails(3, "has no version 9: it has 1 to 3")
    envkit("tag", f"{env}@2", "good").ok()
    assert envkit("rollback", f"{env}@good", "-m", "the\x1bsolver").ok() == f"lab/{env}@5"
    assert [row["message"] for row in envkit.json("log", env)][:2] == ["the\x1bsolver", "rollback to @1"]
    envkit("delete", f"{env}@1", "--yes").ok()
    envkit("rollback", f"{env}@1").fails(3, f"lab/{env}@1 was deleted", "envkit undelete")


def test_an_open_session_is_told_that_it_cannot_be_saved_any_more(envkit, env):
    with envkit.session(env, origin=env, script="touch /opt/mine"):
        outcome = envkit("rollback", f"{env}@1")
        assert outcome.ok() == f"lab/{env}@3"
        assert f"note: the open session on lab/{env} builds on an earlier version" in outcome.stderr
        envkit("save", env).fails(4, f"lab/{env}@3 was saved meanwhile")


def test_a_clone_is_an_environment_of_its_own(envkit, model, name, tiny):
    outcome = envkit("clone", f"{model}@1", name, "-d", "a copy")
    assert outcome.ok() == f"lab/{name}@1"
    assert outcome.stderr == f"lab/{name}@1 is a clone of lab/{model}@1\n"
    source, clone = envkit.json("info", f"{model}@1"), envkit.json("info", name)
    assert (clone["origin"], clone["parent"], clone["description"]) == (f"lab/{model}@1", f"lab/{model}@1", "a copy")
    assert [layer["tree"] for layer in clone["layers"]] == [layer["tree"] for layer in source["layers"]]
    assert envkit.sh(name, _LOOK).ok() == envkit.sh(f"{model}@1", _LOOK).ok()
    envkit("clone", model, name).fails(4, f"the environment lab/{name} exists")
    envkit("clone", "nothing", "new").fails(3, "no environment lab/nothing")
    envkit("clone", f"{model}@9", "new").fails(3, f"lab/{model} has no version 9")
    envkit("clone", model, "new@2").fails(2, "invalid name 'new@2'")
    envkit("clone", model, "base/new").fails(2, "is for bases")
    assert envkit("clone", f"lab/{model}", name, env={"ENVKIT_OWNER": "alice"}).ok() == f"alice/{name}@1"
    assert envkit("clone", f"alice/{name}", f"bob/{name}").ok() == f"bob/{name}@1"
    assert envkit("clone", f"base/{tiny}", f"{name}-plain").ok() == f"lab/{name}-plain@1"
    assert envkit.sh(f"{name}-plain", "cat /usr/share/old").ok() == "from the base"
    with envkit.session(name, origin=name, script="touch /opt/own"):
        assert envkit("save", name).ok() == f"lab/{name}@2"
    assert "own" not in envkit.sh(f"{model}@1", "ls /opt").ok()


def test_squashed_layers_are_one_and_show_the_same(envkit, model, name):
    envkit("clone", model, name).ok()
    packs = os.listdir(f"{envkit.root}/store/packs")
    before = envkit.json("info", name)
    outcome = envkit("squash", name, "-m", "one layer")
    assert outcome.ok() == f"lab/{name}@2"
    assert outcome.stderr.startswith(f"lab/{name}@2 has 2 layers, lab/{name}@1 has 4; its own one: ")
    after = envkit.json("info", name)
    assert after["layers"][0]["tree"] == before["layers"][0]["tree"]
    assert (len(before["layers"]), len(after["layers"])) == (4, 2)
    assert os.listdir(f"{envkit.root}/store/packs") == packs
    look = envkit.sh(f"{name}@1", _LOOK).ok()
    assert envkit.sh(name, _LOOK).ok() == look
    assert "opt/x\n" in look
    assert "old" not in look
    devices = "find / -xdev ! -path '/dev/*' ! -path '/proc/*' -type c"
    assert envkit.sh(name, devices).ok() == "", "a whiteout shows where only one layer has the directory"
    assert not envkit.json("diff", f"{name}@1", f"{name}@2")["files"]
    whiteouts = {row["path"] for row in envkit.json("files", name, "--changed") if row["kind"] == "whiteout"}
    assert whiteouts == {"/usr/share/old"}
    envkit("squash", name).fails(4, f"lab/{name}@2 has one layer on its base: there is nothing to squash")
    envkit("squash", f"{name}@1").fails(2, "only the latest one is squashed", f"envkit rollback lab/{name}@1")
    envkit("squash", "base/tiny").fails(4, "base/tiny@1 has no layer on its base")
    with envkit.session(name, origin=name, script="rm /opt/l2; touch /usr/share/old"):
        assert envkit("save", name).ok() == f"lab/{name}@3"
    assert envkit("squash", name).ok() == f"lab/{name}@4"
    assert envkit.sh(name, _LOOK).ok() == envkit.sh(f"{name}@3", _LOOK).ok()


@pytest.mark.parametrize(
    "point", ["squash:composed", "store:tree", "store:learned", "squash:stored", "squash:published"]
)
def test_a_squash_that_is_killed_is_done_or_can_be_repeated(envkit, model, name, point):
    envkit("clone", model, name).ok()
    assert envkit("squash", name, env={"ENVKIT_CRASH": point}).code == -9
    again = envkit("squash", name)
    if point == "squash:published":
        again.fails(4, f"lab/{name}@2 has one layer on its base")
    else:
        assert again.ok() == f"lab/{name}@2"
    assert envkit.sh(name, _LOOK).ok() == envkit.sh(f"{name}@1", _LOOK).ok()
    assert len(envkit.json("log", name)) == 2


# Delete and bring back


def test_what_was_deleted_comes_back_until_it_is_collected(envkit, env):
    look = envkit.sh(f"{env}@1", _LOOK).ok()
    outcome = envkit("delete", f"{env}@1", "--yes")
    assert outcome.stderr == (
        f"deleted lab/{env}@1; kept for 7 days at least, until `envkit gc` collects it: `envkit undelete lab/{env}@1`\n"
    )
    envkit.sh(f"{env}@1", "true").fails(125, f"lab/{env}@1 was deleted: there are 2")
    outcome = envkit("undelete", f"{env}@1")
    assert (outcome.ok(), outcome.stderr) == (f"lab/{env}@1", f"lab/{env}@1 is there again\n")
    assert envkit.sh(f"{env}@1", _LOOK).ok() == look
    envkit("undelete", f"{env}@1").fails(4, f"lab/{env}@1 is not deleted")
    envkit("undelete", env).fails(4, f"no version of lab/{env} is deleted")
    envkit("undelete", f"{env}@9").fails(3, f"lab/{env} has no version 9")
    envkit("undelete", "nothing").fails(3, "no environment lab/nothing")
    assert f"deleted 2 versions of lab/{env};" in envkit("delete", env, "--yes").stderr
    assert [row["deleted"] for row in envkit.json("log", env)] == [True, True]
    assert f"lab/{env}" not in {row["environment"] for row in envkit.json("list")}
    assert envkit("undelete", env).ok() == f"lab/{env}@1\nlab/{env}@2"
    assert [row["deleted"] for row in envkit.json("log", env)] == [False, False]
    assert envkit.sh(f"{env}@1", _LOOK).ok() == look


def test_a_version_whose_data_was_collected_stays_deleted(envkit, env):
    tree = envkit.json("info", f"{env}@2")["layers"][-1]["tree"]
    envkit("delete", env, "--yes").ok()
    path = f"{envkit.root}/store/trees/{tree[:2]}/{tree}"
    kept = f"{path}.kept"
    os.rename(path, kept)
    try:
        envkit("undelete", f"{env}@2").fails(4, f"lab/{env}@2 cannot be used")
        outcome = envkit("undelete", env)
        assert outcome.ok() == f"lab/{env}@1"
        assert f"note: lab/{env}@2 cannot be used" in outcome.stderr
        envkit("undelete", env).fails(4, f"lab/{env}@2 cannot be used")
    finally:
        os.rename(kept, path)
    assert envkit("undelete", env).ok() == f"lab/{env}@2"


# Rename


@pytest.fixture
def rich(envkit, model, name):
    """An environment with some of everything in its history."""
    envkit("clone", model, name).ok()
    envkit("squash", name).ok()
    envkit("tag", f"{name}@1", "stable").ok()
    envkit("rollback", f"{name}@1", "-m", "back").ok()
    envkit("delete", f"{name}@2", "--yes").ok()
    envkit("describe", name, "rich").ok()
    return name


def _whole(envkit, name):
    """Return all that one can see of an environment: history, tags, description, files of its versions."""
    files = {ref: envkit("files", f"{name}{ref}").ok() for ref in ("", "@stable")}
    (listed,) = [row for row in envkit.json("list") if row["environment"] == f"lab/{name}"]
    return _log(envkit, name), listed["description"], listed["version"], files


def test_a_renamed_environment_keeps_its_history(envkit, rich, name):
    new = f"{name}-new"
    before = _whole(envkit, rich)
    assert [(row["version"], row["deleted"], row["tags"]) for row in before[0]] == [
        (4, False, []),
        (2, True, []),
        (1, False, ["stable"]),
    ]
    outcome = envkit("rename", rich, new)
    assert (outcome.ok(), outcome.stderr) == (f"lab/{new}", f"lab/{rich} was renamed to lab/{new}\n")
    assert _whole(envkit, new) == before
    assert envkit.sh(f"{new}@stable", _LOOK).ok() == envkit.sh("model", _LOOK).ok()
    assert envkit.json("log", new)[-1]["origin"] == "lab/model@3", "a clone goes on being one"
    for words in (["info", rich], ["log", rich], ["files", f"{rich}@1"], ["delete", rich, "--yes"], ["tag", rich, "x"]):
        envkit(*words).fails(3, f"lab/{rich} was renamed to lab/{new}", f"use lab/{new}")
    envkit.sh(f"{rich}@stable", "true").fails(125, f"lab/{rich} was renamed to lab/{new}")
    envkit("create", "x", "--from", rich).fails(3, f"lab/{rich} was renamed to lab/{new}")
    for ref in (rich, f"{rich}@1", f"{rich}@2"):
        envkit("undelete", ref).fails(4, "was not deleted but renamed", f"use lab/{new}", "envkit clone")
    assert envkit("undelete", f"{new}@2").ok() == f"lab/{new}@2"
    assert envkit("rename", rich, new).stderr == f"lab/{rich} is renamed to lab/{new}\n"
    with envkit.session(new, origin=new, script="touch /opt/later"):
        assert envkit("save", new).ok() == f"lab/{new}@8"


def test_renames_that_cannot_be_change_nothing(envkit, rich, name, tiny):
    other = f"{name}-other"
    before = _log(envkit, rich)
    envkit("clone", rich, other).ok()
    envkit("rename", rich, other).fails(4, f"lab/{other} exists")
    envkit("delete", other, "--yes").ok()
    envkit("rename", rich, other).fails(4, f"the name lab/{other} was used before")
    envkit("rename", rich, rich).fails(2, f"lab/{rich} is its name already")
    envkit("rename", f"{rich}@1", "new").fails(2, "invalid name")
    envkit("rename", rich, "new@1").fails(2, "invalid name")
    envkit("rename", rich, "base/new").fails(2, "a base stays a base")
    envkit("rename", f"base/{tiny}", "new").fails(2, "a base stays a base", "envkit clone")
    envkit("rename", "nothing", "new").fails(3, "no environment lab/nothing")
    with envkit.session(rich, origin=rich):
        envkit("rename", rich, "new").fails(4, f"a session on lab/{rich} is open on this machine", "envkit save")
    with envkit.session("new"):
        envkit("rename", rich, "new").fails(4, "a session on lab/new is open on this machine")
    assert _log(envkit, rich) == before


@pytest.mark.parametrize("point", [*(f"rename:copy@{n}" for n in range(1, 7)), "rename:copied", "rename:done"])
def test_a_rename_that_is_killed_leaves_the_old_name_whole_and_can_be_repeated(envkit, rich, name, point):
    new = f"{name}-new"
    before = _whole(envkit, rich)
    assert envkit("rename", rich, new, env={"ENVKIT_CRASH": point}).code == -9
    if point == "rename:done":
        envkit("info", rich).fails(3, f"lab/{rich} was renamed to lab/{new}")
    else:
        assert _whole(envkit, rich) == before
    newest = envkit("info", new, "--json")
    if newest.code == 0:
        assert json.loads(newest.stdout)["version"] == 4, "the first version under the new name is the right one"
    else:
        assert point in ("rename:copy@1", "rename:copy@2"), "only records of other kinds come before it"
    assert envkit("rename", rich, new).ok() == f"lab/{new}"
    assert _whole(envkit, new) == before
    envkit("info", rich).fails(3, f"lab/{rich} was renamed to lab/{new}")


def test_what_is_saved_between_a_killed_rename_and_the_next_is_taken_along(envkit, rich, name):
    new = f"{name}-new"
    assert envkit("rename", rich, new, env={"ENVKIT_CRASH": "rename:copied"}).code == -9
    with envkit.session(rich, origin=rich, script="echo late >/opt/late"):
        saved = envkit("save", rich, "-m", "late").ok()
        envkit("rename", rich, new).fails(4, "is open on this machine")
    before = _whole(envkit, rich)
    envkit("rename", rich, new).ok()
    assert _whole(envkit, new) == before
    assert envkit.sh(f"{new}@{saved.split('@')[1]}", "cat /opt/late").ok() == "late"
