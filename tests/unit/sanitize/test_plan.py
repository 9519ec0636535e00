"""What hard links, directories, waivers and odd names make of the rules."""

from sanitize_support import (
    GIT_CONFIG,
    Layer,
    directory,
    entry_at,
    file,
    hard_link,
    outcomes,
    paths,
    symlink,
    whiteout,
)

from envkit.model.tree import Entry, Kind
from envkit.sanitize import Action, Outcome
from envkit.sanitize.planner import MAX_EDIT

# What is below


def test_a_secret_that_a_lower_layer_has_too_is_hidden_with_it() -> None:
    layer = Layer.of(file("root/.netrc"), below=[file("root/.netrc")])
    assert entry_at(layer.cleaned(), "root/.netrc") == Entry(b"root/.netrc", Kind.WHITEOUT)


def test_a_whiteout_below_shows_nothing() -> None:
    layer = Layer.of(file("root/.netrc"), below=[whiteout("root/.netrc")])
    assert outcomes(layer.plan()) == {"root/.netrc": ("R005", "drop")}


def test_an_opaque_directory_hides_the_lower_at_any_depth() -> None:
    layer = Layer.of(
        directory("etc", opaque=True), file("etc/ssl/private/a.key"), below=[file("etc/ssl/private/a.key")]
    )
    assert outcomes(layer.plan()) == {"etc/ssl/private/a.key": ("R011", "drop")}


def test_an_opaque_root_hides_all_that_is_below() -> None:
    layer = Layer.of(directory("", opaque=True), file("etc/hosts"), below=[file("etc/hosts")])
    assert outcomes(layer.plan()) == {"etc/hosts": ("R102", "drop")}


def test_what_the_user_deleted_does_not_come_back() -> None:
    below = [file("etc/hosts"), file("root/.netrc"), file("var/log/dpkg.log"), file("root/.cache/pip/x")]
    layer = Layer.of(*(whiteout(entry.path) for entry in below), below=below)
    cleaned = layer.cleaned()
    assert [entry for entry in cleaned.entries if entry.kind is Kind.WHITEOUT] == [
        whiteout(path) for path in ("etc/hosts", "root/.cache/pip/x", "root/.netrc", "var/log/dpkg.log")
    ]


def test_a_file_in_place_of_a_deleted_directory_does_not_bring_it_back() -> None:
    layer = Layer.of(file("root/.cargo/registry"), below=[file("root/.cargo/registry/index/x")])
    assert outcomes(layer.plan()) == {"root/.cargo/registry": ("R202", "whiteout")}


def test_a_deleted_and_made_again_cache_directory_stays_to_hide_the_lower() -> None:
    layer = Layer.of(
        directory("root/.npm/_cacache", opaque=True),
        file("root/.npm/_cacache/new"),
        below=[file("root/.npm/_cacache/old")],
    )
    cleaned = layer.cleaned()
    assert paths(cleaned) == ["", "root", "root/.npm", "root/.npm/_cacache"]
    assert entry_at(cleaned, "root/.npm/_cacache").opaque


# Directories


def test_directories_of_a_cache_go_when_nothing_is_left_in_them() -> None:
    layer = Layer.of(
        file("root/.cache/pip/http/a/b"), directory("root/.cache/pip/empty"), file("root/.npm/_cacache/a/b")
    )
    assert paths(layer.cleaned()) == ["", "root", "root/.cache", "root/.cache/pip", "root/.npm"]


def test_a_directory_of_a_cache_stays_while_something_in_it_does() -> None:
    layer = Layer.of(file("root/.npm/_cacache/a/keep"), file("root/.npm/_cacache/b/go"))
    cleaned = layer.cleaned(allow=["R202:/root/.npm/_cacache/a/keep"])
    assert paths(cleaned)[3:] == ["root/.npm/_cacache", "root/.npm/_cacache/a", "root/.npm/_cacache/a/keep"]


def test_a_directory_of_a_cache_stays_while_it_holds_a_whiteout() -> None:
    layer = Layer.of(file("tmp/work/new"), whiteout("tmp/work/old"), below=[file("tmp/work/old")])
    cleaned = layer.cleaned()
    assert paths(cleaned) == ["", "tmp", "tmp/work"]
    assert entry_at(cleaned, "tmp/work/old").kind is Kind.WHITEOUT


def test_a_directory_that_a_lower_layer_has_stays() -> None:
    layer = Layer.of(directory("tmp/work"), below=[directory("tmp/work")])
    assert outcomes(layer.plan()) == {}


def test_directories_of_credentials_stay() -> None:
    layer = Layer.of(file("root/.gnupg/private-keys-v1.d/a.key"), file("etc/ipsec.d/private/a.pem"))
    left = paths(layer.cleaned())
    assert "root/.gnupg/private-keys-v1.d" in left
    assert "etc/ipsec.d/private" in left


# Kinds


def test_links_and_fifos_with_the_name_of_a_secret_go_too() -> None:
    layer = Layer.of(symlink("root/.netrc", b"/srv/netrc"), Entry(b"tmp/pipe", Kind.FIFO), file("srv/netrc"))
    assert outcomes(layer.plan()) == {"root/.netrc": ("R005", "drop"), "tmp/pipe": ("R019", "drop")}


def test_emptied_files_keep_what_they_are_but_their_content() -> None:
    layer = Layer.of(file("var/log/dpkg.log", size=99), below=[file("var/log/dpkg.log")])
    cleaned = layer.cleaned()
    assert entry_at(cleaned, "var/log/dpkg.log") == file("var/log/dpkg.log", size=0)
    assert cleaned.contents == {b"var/log/dpkg.log": b""}


def test_an_empty_machine_id_needs_nothing() -> None:
    assert outcomes(Layer.of(file("etc/machine-id", size=0)).plan()) == {}


def test_names_need_not_be_text() -> None:
    layer = Layer.of(file(b"home/\xff\xfe/.ssh/\x80\n"), file(b"home/\xff\xfe/\x80"), file(b"tmp/\xff/\xfe"))
    plan = layer.plan()
    assert [action.path for action in plan.actions] == [b"home/\xff\xfe/.ssh/\x80\n", b"tmp/\xff", b"tmp/\xff/\xfe"]


# Edits


def git_config(path: str, content: bytes = GIT_CONFIG) -> Layer:
    return Layer.of(file(path, size=len(content)), contents={path.encode(): content})


def test_a_git_configuration_loses_its_credentials_only() -> None:
    layer = git_config("srv/app/.git/config")
    cleaned = layer.cleaned()
    edited = cleaned.contents[b"srv/app/.git/config"]
    assert edited == b'[remote "origin"]\n\turl = https://example.org/a.git\n'
    assert entry_at(cleaned, "srv/app/.git/config") == file("srv/app/.git/config", size=len(edited))
    assert layer.plan().size == len(GIT_CONFIG) - len(edited)


def test_a_git_configuration_without_credentials_is_not_mentioned() -> None:
    assert layer_is_left(git_config("srv/app/.git/config", b"[core]\n\tbare = false\n"))


def test_a_git_configuration_too_large_to_edit_goes() -> None:
    layer = Layer.of(file("srv/app/.git/config", size=MAX_EDIT + 1))
    assert outcomes(layer.plan()) == {"srv/app/.git/config": ("R005", "drop")}


def test_a_link_in_place_of_a_git_configuration_is_not_read() -> None:
    assert layer_is_left(Layer.of(symlink("srv/app/.git/config", b"/etc/shadow")))


def layer_is_left(layer: Layer) -> bool:
    return layer.plan().actions == () and layer.cleaned().entries == layer.entries


# Hard links


def test_a_secret_goes_under_all_its_names() -> None:
    layer = Layer.of(
        file("opt/innocent"),
        hard_link("root/.netrc", "opt/innocent"),
        hard_link("srv/also", "opt/innocent"),
        below=[file("srv/also")],
    )
    assert outcomes(layer.plan()) == {
        "opt/innocent": ("R005", "drop"),
        "root/.netrc": ("R005", "drop"),
        "srv/also": ("R005", "whiteout"),
    }
    assert [action.link for action in layer.plan().actions] == [b"root/.netrc", b"", b"root/.netrc"]


def test_the_cache_goes_and_what_is_linked_to_it_stays() -> None:
    first = file("root/.cache/uv/archive/numpy.py", size=100)
    layer = Layer.of(
        first,
        hard_link("root/.cache/uv/archive/twice.py", first.path),
        hard_link("srv/a/numpy.py", first.path),
        hard_link("srv/b/numpy.py", first.path),
    )
    plan, cleaned = layer.plan(), layer.cleaned()
    assert entry_at(cleaned, "srv/a/numpy.py") == file("srv/a/numpy.py", size=100)
    assert entry_at(cleaned, "srv/b/numpy.py") == hard_link("srv/b/numpy.py", "srv/a/numpy.py")
    assert not any(path.startswith("root/.cache/uv/") for path in paths(cleaned))
    assert plan.size == 0


def test_a_later_name_in_the_cache_goes_alone() -> None:
    layer = Layer.of(file("opt/numpy.py"), hard_link("root/.cache/uv/numpy.py", "opt/numpy.py"))
    cleaned = layer.cleaned()
    assert entry_at(cleaned, "opt/numpy.py") == file("opt/numpy.py")
    assert "root/.cache/uv/numpy.py" not in paths(cleaned)


def test_content_that_goes_under_all_its_names_counts_once() -> None:
    layer = Layer.of(file("tmp/a", size=100), hard_link("tmp/b", "tmp/a"))
    assert layer.plan().size == 100


def test_a_symlink_with_two_names_moves_to_the_second() -> None:
    layer = Layer.of(
        symlink("root/.cache/uv/python", b"/usr/bin/python3"), hard_link("srv/python", "root/.cache/uv/python")
    )
    assert entry_at(layer.cleaned(), "srv/python") == symlink("srv/python", b"/usr/bin/python3")


def test_a_log_is_emptied_apart_from_its_other_names() -> None:
    layer = Layer.of(
        file("srv/run.log", size=50), hard_link("var/log/run.log", "srv/run.log"), below=[file("var/log/run.log")]
    )
    cleaned = layer.cleaned()
    assert entry_at(cleaned, "srv/run.log") == file("srv/run.log", size=50)
    assert entry_at(cleaned, "var/log/run.log") == file("var/log/run.log", size=0)
    assert cleaned.contents == {b"var/log/run.log": b""}


def test_the_first_name_of_a_log_is_emptied_and_the_second_keeps_the_content() -> None:
    layer = Layer.of(
        file("var/log/a.log", size=50), hard_link("var/www/a.log", "var/log/a.log"), below=[file("var/log/a.log")]
    )
    cleaned = layer.cleaned()
    assert entry_at(cleaned, "var/log/a.log") == file("var/log/a.log", size=0)
    assert entry_at(cleaned, "var/www/a.log") == file("var/www/a.log", size=50)


def test_a_git_configuration_is_edited_under_all_its_names() -> None:
    layer = Layer.of(
        file("srv/a/.git/config", size=len(GIT_CONFIG)),
        hard_link("srv/copy", "srv/a/.git/config"),
        contents={b"srv/a/.git/config": GIT_CONFIG},
    )
    cleaned = layer.cleaned()
    assert set(cleaned.contents) == {b"srv/a/.git/config", b"srv/copy"}
    assert b"hunter2" not in b"".join(cleaned.contents.values())


def test_a_secret_that_could_be_edited_under_another_name_goes_under_both() -> None:
    layer = Layer.of(
        file("root/.netrc", size=len(GIT_CONFIG)),
        hard_link("srv/a/.git/config", "root/.netrc"),
        contents={b"root/.netrc": GIT_CONFIG},
    )
    assert {done for _, done in outcomes(layer.plan()).values()} == {"drop"}


def test_a_secret_goes_even_under_the_name_of_an_exception() -> None:
    layer = Layer.of(file("root/.gnupg/pubring.kbx"), hard_link("root/.gnupg/secring.gpg", "root/.gnupg/pubring.kbx"))
    assert set(outcomes(layer.plan())) == {"root/.gnupg/pubring.kbx", "root/.gnupg/secring.gpg"}


# Waivers


def test_a_waiver_lets_one_path_pass_under_one_rule() -> None:
    layer = Layer.of(file("root/.bash_history"), file("root/.zsh_history"), file("home/u/.bash_history"))
    plan = layer.plan(allow=["R103:/root/.bash_history"])
    assert outcomes(plan) == {"home/u/.bash_history": ("R103", "drop"), "root/.zsh_history": ("R103", "drop")}
    assert [(waived.rule, waived.path) for waived in plan.waived] == [("R103", b"root/.bash_history")]
    assert plan.unused_allows == ()


def test_a_waiver_may_be_a_glob_and_cover_a_directory() -> None:
    layer = Layer.of(file("root/.cache/uv/a/b"), file("home/u/.cache/uv/c"), file("root/.cache/pip/d"))
    plan = layer.plan(allow=["R202:~/.cache/uv"])
    assert set(outcomes(plan)) == {"root/.cache/pip/d"}
    assert [waived.path for waived in plan.waived] == [b"home/u/.cache/uv/c", b"root/.cache/uv/a/b"]


def test_a_waiver_of_one_rule_leaves_the_others_in_force() -> None:
    layer = Layer.of(file("tmp/krb5cc_0"))
    plan = layer.plan(allow=["R010:/tmp/krb5cc_0"])
    assert outcomes(plan) == {"tmp/krb5cc_0": ("R019", "drop")}
    assert (plan.waived, plan.unused_allows) == ((), ())
    assert outcomes(layer.plan(allow=["R010:/tmp/krb5cc_0", "R019:/tmp/*"])) == {}


def test_waivers_that_let_nothing_pass_are_told() -> None:
    layer = Layer.of(
        file("root/.netrc"),
        whiteout("root/.wget-hsts"),
        file("srv/.git/config", size=2),
        contents={b"srv/.git/config": b"[]"},
    )
    texts = ["R005:/root/.netcr", "R103:/root/.netrc", "R103:/root/.wget-hsts", "R005:/srv/.git/config"]
    assert [str(waiver) for waiver in layer.plan(allow=texts).unused_allows] == texts


def test_a_waived_name_of_a_secret_stays_when_the_others_go() -> None:
    layer = Layer.of(file("opt/a"), hard_link("opt/b", "opt/a"), hard_link("root/.netrc", "opt/a"))
    plan = layer.plan(allow=["R005:/opt/b"])
    assert outcomes(plan) == {"opt/a": ("R005", "drop"), "root/.netrc": ("R005", "drop")}
    assert [waived.path for waived in plan.waived] == [b"opt/b"]
    assert plan.unused_allows == ()
    assert entry_at(layer.cleaned(allow=["R005:/opt/b"]), "opt/b") == file("opt/b")


def test_a_waiver_for_a_cache_does_not_save_a_secret_that_is_linked_into_it() -> None:
    layer = Layer.of(file("root/.cache/uv/a"), hard_link("root/.netrc", "root/.cache/uv/a"))
    plan = layer.plan(allow=["R202:~/.cache/uv"])
    assert set(outcomes(plan)) == {"root/.cache/uv/a", "root/.netrc"}
    assert (plan.waived, plan.unused_allows) == ((), ())


def test_a_waiver_keeps_an_empty_cache_directory() -> None:
    layer = Layer.of(directory("root/.npm/_cacache"))
    assert outcomes(layer.plan()) == {"root/.npm/_cacache": ("R202", "drop")}
    plan = layer.plan(allow=["R202:/root/.npm/_cacache"])
    assert (plan.actions, plan.unused_allows) == ((), ())


# The plan as a whole


def test_actions_come_in_the_order_of_the_entries() -> None:
    layer = Layer.of(file("tmp/b"), file("tmp/a/z"), file("etc/hosts"), file("root/.netrc"))
    order = [entry.path for entry in layer.entries]
    found = [action.path for action in layer.plan().actions]
    assert found == sorted(found, key=order.index)
    assert len(found) == 5


def test_an_action_says_what_why_and_how_much() -> None:
    layer = Layer.of(file("var/cache/apt/archives/a.deb", size=77), below=[file("var/cache/apt/archives/a.deb")])
    assert layer.plan().actions == (
        Action(
            rule="R201",
            path=b"var/cache/apt/archives/a.deb",
            outcome=Outcome.RESTORE,
            size=77,
            scope=b"var/cache/apt",
        ),
    )


def test_an_untouched_layer_needs_no_plan() -> None:
    assert layer_is_left(
        Layer.of(file("opt/app/run.py"), file("usr/bin/tool"), hard_link("usr/bin/tool2", "usr/bin/tool"))
    )
    assert layer_is_left(Layer.of(directory("")))
