"""The option text of overlay mounts."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.errors import EXIT_UNAVAILABLE
from envkit.overlay.errors import StackTooDeep
from envkit.overlay.options import MAX_OPTIONS, escape, overlay_options

paths = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=40)


def split(text, separator):
    """Split as the kernel does: a backslash takes the meaning from the byte after it, and stays for the next step."""
    parts, rest = [""], iter(text)
    for character in rest:
        if character == separator:
            parts.append("")
        else:
            parts[-1] += character + (next(rest) if character == "\\" else "")
    return parts


def unescape(text):
    rest = iter(text)
    return "".join(next(rest) if character == "\\" else character for character in rest)


def parse(options):
    """Read options as fs/overlayfs/params.c does."""
    found = dict((*option.split("=", 1), "")[:2] for option in split(options, ","))
    lowers = [unescape(name) for name in split(found.pop("lowerdir"), ":")]
    return lowers, {name: unescape(value) for name, value in found.items()}


@given(st.lists(paths, min_size=1, max_size=5), paths, paths, st.booleans())
def test_the_kernel_reads_back_the_directories_that_were_given(lowers, upper, work, session):
    found, rest = parse(overlay_options(lowers, upper=upper, work=work, session=session))
    assert found == lowers
    assert (rest["upperdir"], rest["workdir"]) == (upper, work)
    assert set(rest) - {"volatile"} == {"upperdir", "workdir", "redirect_dir", "metacopy", "index", "xino"}


def test_no_name_can_add_an_option():
    _, options = parse(overlay_options(["a,redirect_dir=on", "b:c\\"], upper="u,metacopy=on", work="w\\,index=on"))
    assert options["redirect_dir"] == "nofollow"
    assert options["metacopy"] == "off"
    assert options["index"] == "off"


def test_an_upper_that_is_saved_is_written_to_the_disk_and_one_that_is_thrown_away_is_not():
    assert "volatile" not in overlay_options(["0"], upper="u", work="w", session=True)
    assert "volatile" in overlay_options(["0"], upper="u", work="w").split(",")


def test_a_read_only_stack_has_lower_directories_alone():
    options = overlay_options(["1", "0"])
    assert options.split(",")[0] == "lowerdir=1:0"
    assert "upperdir" not in options
    assert "volatile" not in options


def test_the_deepest_stack_fits_when_its_names_are_short():
    options = overlay_options([str(number) for number in range(400)], upper="/" + "u" * 1000, work="/" + "w" * 1000)
    assert len(options) <= MAX_OPTIONS


def test_options_that_fill_a_page_pass_and_one_byte_more_is_refused():
    room = MAX_OPTIONS - len(overlay_options(["x"])) + 1
    assert len(overlay_options(["x" * room])) == MAX_OPTIONS
    with pytest.raises(StackTooDeep) as caught:
        overlay_options(["x" * (room + 1)])
    assert (
        str(caught.value)
        == "cannot stack the layers: mount options of 4,096 bytes are more than the 4,095 that mount(2) takes"
    )
    assert caught.value.resolution == "squash the environment's layers"
    assert caught.value.exit_code == EXIT_UNAVAILABLE


def test_the_size_counts_bytes_not_characters():
    with pytest.raises(StackTooDeep, match="mount options of 6,0"):
        overlay_options(["ü" * 3000])
    assert len(os.fsencode(overlay_options([os.fsdecode(b"\xff" * 3000)]))) < MAX_OPTIONS


def test_more_layers_than_overlayfs_takes_are_refused_by_number():
    with pytest.raises(StackTooDeep, match=r"501 layers are more than the 500 that overlayfs takes"):
        overlay_options(["x"] * 501)


@pytest.mark.parametrize(
    "arguments", [([], {}), ([""], {}), (["a"], {"upper": "u"}), (["a"], {"work": "w"}), (["a", ""], {})]
)
def test_incomplete_stacks_are_a_programming_error(arguments):
    lowers, others = arguments
    with pytest.raises(ValueError, match="an overlay needs lower directories, and upper and work together"):
        overlay_options(lowers, **others)


def test_nul_would_end_the_options_early():
    with pytest.raises(ValueError, match="holds NUL"):
        escape("a\0b")
