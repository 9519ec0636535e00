"""Keys of objects, in both directions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import digests, env_names

from envkit.model.ids import EnvName
from envkit.store import layout
from envkit.store.base import is_key

_DIGEST = "ab" + "cd" * 31


def test_keys_are_those_of_the_format():
    env = EnvName(owner="alice", name="sci")
    assert layout.pack_key(_DIGEST) == f"packs/ab/{_DIGEST}"
    assert layout.tree_key(_DIGEST) == f"trees/ab/{_DIGEST}"
    assert layout.versions_prefix(env) == "envs/alice/sci/"
    assert layout.version_key(env, 7) == "envs/alice/sci/00000007.json"


@given(env_names, st.integers(1, 99_999_999), digests.map(bytes.hex))
def test_every_key_is_valid_and_leads_back(env, number, digest):
    keys = [layout.version_key(env, number), layout.pack_key(digest), layout.tree_key(digest), layout.FORMAT]
    assert all(map(is_key, keys))
    assert [layout.version_of(key) for key in keys] == [(env, number), None, None, None]
    assert [layout.pack_of(key) for key in keys] == [None, digest, None, None]
    assert [layout.tree_of(key) for key in keys] == [None, None, digest, None]


@pytest.mark.parametrize(
    "key",
    [
        "envs/alice/sci/00000000.json",
        "envs/alice/sci/1.json",
        "envs/alice/sci/000000001.json",
        "envs/alice/sci/0000000a.json",
        "envs/alice/sci/٠٠٠٠٠٠٠١.json",
        "envs/alice/sci/00000001.json.bak",
        "envs/alice/sci/00000001",
        "envs/alice/Sci/00000001.json",
        "envs/.alice/sci/00000001.json",
        "envs/alice/sci.lock/00000001.json",
        "envs/alice/sci/x/00000001.json",
        "envs/sci/00000001.json",
        f"packs/ab/{_DIGEST.upper()}",
        f"packs/cd/{_DIGEST}",
        f"packs/{_DIGEST}",
        f"trees/ab/{_DIGEST}0",
        "README",
        "",
    ],
)
def test_other_keys_are_nobodys(key):
    assert (layout.version_of(key), layout.pack_of(key), layout.tree_of(key)) == (None, None, None)


@pytest.mark.parametrize("number", [0, -1, 100_000_000])
def test_numbers_out_of_range_have_no_key(number):
    with pytest.raises(ValueError, match="out of range"):
        layout.version_key(EnvName(owner="a", name="b"), number)


@pytest.mark.parametrize("digest", ["", "ab", "../" + "a" * 61, _DIGEST.upper(), _DIGEST + "\n"])
def test_what_is_no_digest_has_no_key(digest):
    for key in (layout.pack_key, layout.tree_key):
        with pytest.raises(ValueError, match="is no digest"):
            key(digest)
