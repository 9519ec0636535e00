"""Keys of start packs, in both directions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import digests, env_names

from envkit.model.ids import EnvName
from envkit.store import layout
from envkit.store.base import is_key

DIGEST = "ab" * 32
GOOD = f"starts/alice/sci/{'1' * 16}-{'2' * 16}-00000003-{DIGEST}"


@given(env_names, digests, digests, st.integers(1, 99_999_999), digests)
def test_every_key_is_valid_and_leads_back(env, stack, entry, number, digest):
    parts = env, stack.hex()[:16], entry.hex()[:16], number, digest.hex()
    key = layout.start_key(*parts)
    assert is_key(key)
    assert layout.start_of(key) == parts
    assert key.startswith(layout.starts_prefix(env))
    assert layout.version_of(key) is layout.pack_of(key) is layout.tree_of(key) is None


def test_the_key_is_that_of_the_format():
    env = EnvName(owner="alice", name="sci")
    assert layout.start_key(env, "1" * 16, "2" * 16, 3, DIGEST) == GOOD
    assert layout.start_of(GOOD) == (env, "1" * 16, "2" * 16, 3, DIGEST)


@pytest.mark.parametrize(
    "key",
    [
        GOOD + "0",
        GOOD[:-1],
        GOOD + "\n",
        GOOD.replace("starts/", "envs/"),
        GOOD.replace("00000003", "00000000"),
        GOOD.replace("00000003", "3"),
        GOOD.replace("alice", ".alice"),
        GOOD.replace("sci", "Sci"),
        GOOD.replace("ab", "AB"),
        GOOD.replace("1" * 16, "1" * 15),
        "starts/alice/sci/README",
    ],
)
def test_other_keys_are_nobodys(key):
    assert layout.start_of(key) is None


@pytest.mark.parametrize(("number", "digest"), [(0, DIGEST), (100_000_000, DIGEST), (1, DIGEST[1:])])
def test_what_is_out_of_range_has_no_key(number, digest):
    with pytest.raises(ValueError, match="is no key of a start pack"):
        layout.start_key(EnvName(owner="a", name="b"), "1" * 16, "2" * 16, number, digest)
