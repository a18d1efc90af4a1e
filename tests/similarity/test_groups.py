"""Groups out of pairs and rows; splits that share no sentence."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from similarity import paraphrase
from similarity.groups import Groups, groups_from_pairs, groups_from_rows, merged, split
from similarity.paraphrase import expansions, made_up_groups
from similarity.text import normalize
from trainer import UserError


def test_components_by_hand():
    groups = groups_from_pairs([("a", "b", 1), ("c", "d", 1), ("b", "e", 1), ("f", "a", 0), ("g", "h", 0)])
    assert list(groups) == [["a", "b", "e"], ["c", "d"]]
    assert groups.singles == ["f", "g", "h"]
    assert groups.negatives == [("f", "a"), ("g", "h")]
    assert groups.labels.tolist() == [0, 0, 0, 1, 1]
    assert groups.sentences == ["a", "b", "e", "c", "d"]
    assert (len(groups), groups[1], groups[0:1]) == (2, ["c", "d"], [["a", "b", "e"]])


def test_sentences_are_the_same_after_normalisation_and_keep_their_first_spelling():
    groups = groups_from_pairs([("ＡＢ？", "c", 1), ("ab?", "d", 1)])
    assert list(groups) == [["ＡＢ？", "c", "d"]]


def test_a_contradiction_drops_its_group_and_nothing_else():
    groups = groups_from_pairs(
        [("a", "b", 1), ("b", "c", 1), ("c", "a", 0), ("x", "y", 1), ("x", "a", 0), ("q", "q", 0)]
    )
    assert list(groups) == [["x", "y"]]
    assert (groups.contradictions, groups.dropped) == (1, 3)
    assert groups.negatives == [("q", "q")]  # of itself a sentence says nothing against others
    assert "1 contradictions: 3 sentences" in groups.summary()


def test_long_chains_do_not_recurse():
    names = [str(i) for i in range(20_000)]
    groups = groups_from_pairs((a, b, 1) for a, b in itertools.pairwise(names))
    assert [len(group) for group in groups] == [20_000]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), max_size=25))
def test_components_equal_a_plain_closure(pairs):
    texts = [(f"s{a}", f"s{b}", label) for a, b, label in pairs]
    names = list(dict.fromkeys(name for a, b, _ in texts for name in (a, b)))
    linked = {(name, name) for name in names}
    for a, b, label in texts:
        linked |= {(a, b), (b, a)} if label else set()
    while True:
        more = linked | {(a, d) for a, b in linked for c, d in linked if b == c}
        if more == linked:
            break
        linked = more
    wrong = {
        name
        for a, b, label in texts
        if not label and a != b and (a, b) in linked
        for name in names
        if (a, name) in linked
    }
    expected = {frozenset(b for b in names if (a, b) in linked) for a in names if a not in wrong}
    groups = groups_from_pairs(texts)
    found = {frozenset(group) for group in groups} | {frozenset([single]) for single in groups.singles}
    assert found == expected
    assert groups.dropped == len(wrong)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([("a", "b", 1), ("a", " 　", 0)], "pair 2: an empty sentence"), ([("a", "b", 2)], "pair 1: label 2; expected 1")],
)
def test_bad_pairs_are_named(pairs, message):
    with pytest.raises(UserError, match=message):
        groups_from_pairs(pairs)


def test_rows_with_duplicates_and_a_class_of_one():
    groups = groups_from_rows([("1", "a"), ("1", "b"), ("2", "Ａ"), ("2", "c"), ("1", "b"), ("3", "d"), ("2", "e")])
    assert list(groups) == [["a", "b"], ["c", "e"]]
    assert groups.singles == ["d"]
    assert (groups.duplicates, groups.across) == (2, 1)
    assert "2 repeated sentences dropped, 1 of them in another group" in groups.summary()
    with pytest.raises(UserError, match="row 1: an empty sentence in group '7'"):
        groups_from_rows([("7", "　")])


def test_merged_sets_join_groups_that_share_a_sentence():
    one = Groups([["a", "b"], ["c", "d"]], ["e"], [("a", "c")])
    two = Groups([["b", "x"], ["e", "y"]], ["z"], [("x", "d"), ("z", "a")], duplicates=3, across=1)
    whole = merged([one, two])
    assert list(whole) == [["a", "b", "x"], ["c", "d"], ["e", "y"]]
    assert whole.singles == ["z"]
    assert whole.negatives == [("a", "c"), ("x", "d"), ("z", "a")]
    assert (whole.duplicates, whole.across) == (3, 1)
    assert merged([Groups([["a", "b"]]), Groups([["b", "c"]], [], [("a", "c")])]).contradictions == 1


def test_merged_sets_equal_the_pairs_as_one_set():
    """The first set's contradiction is not forgotten because the second set knows only half of it."""
    one = [("a", "b", 1), ("b", "c", 1), ("a", "c", 0), ("x", "y", 1), ("a", "x", 0)]
    two = [("a", "c", 1), ("p", "q", 1), ("c", "p", 1), ("u", "v", 1)]
    whole = merged([groups_from_pairs(one), groups_from_pairs(two)])
    expected = groups_from_pairs([*one, *two])
    assert list(whole) == list(expected) == [["x", "y"], ["u", "v"]]
    assert (whole.contradictions, whole.dropped) == (expected.contradictions, expected.dropped) == (1, 5)
    again = merged([whole, groups_from_pairs([("q", "u", 1)])])
    assert list(again) == [["x", "y"]]
    assert (again.contradictions, again.dropped) == (1, 7)


def test_a_split_shares_no_sentence_and_loses_none():
    groups = made_up_groups()
    parts = split(groups, 0.05, 0.1)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (401, 24, 47)
    sets = [{normalize(s) for s in part.sentences} for part in (parts.train, parts.validation, parts.test)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert sets[0] | sets[1] | sets[2] == {normalize(s) for s in groups.sentences}


def test_a_split_depends_on_the_groups_alone():
    groups = made_up_groups()
    backwards = Groups([group[::-1] for group in groups][::-1])
    assert split(groups).sha256() == split(backwards).sha256()
    fewer = split(Groups(groups.groups[1:]))
    moved = {group[0] for group in split(groups).test} ^ {group[0] for group in fewer.test}
    assert len(moved) <= 3  # the group itself, and one across the border
    assert split(groups).sha256() != split(groups, 0.06).sha256()


def test_negatives_and_singles_follow_the_split():
    groups = made_up_groups()
    singles = [f"无关的问题{i}" for i in range(100)]
    first = [group[0] for group in groups]
    parts = split(Groups(groups.groups, singles, [(a, b) for a in first[:50] for b in singles]), 0.2, 0.2)
    assert [len(part.singles) for part in (parts.train, parts.validation, parts.test)] == [60, 20, 20]
    for part in (parts.train, parts.validation, parts.test):
        own = {*part.sentences, *part.singles}
        assert part.negatives
        assert all(a in own and b in own for a, b in part.negatives)


def test_too_few_groups_to_split():
    with pytest.raises(UserError, match="3 groups are too few"):
        split(Groups([["a", "b"], ["c", "d"], ["e", "f"]]))


def test_the_made_up_corpus_is_large_clean_and_always_the_same():
    groups = made_up_groups()
    assert len(groups) >= 400
    assert len(groups.sentences) >= 2000
    assert groups.duplicates == 0
    assert not groups.singles
    assert min(map(len, groups)) == 6
    assert all("[" not in s and "{" not in s and "|" not in s for s in groups.sentences)
    assert groups.sha256() == "9725491d5103aeb0215a2a183bfc29a4898e6ab3922b96ebd00644cdd9fd8eab"


def test_expansions_and_the_file(tmp_path):
    assert expansions("[甲|乙]x[|y]") == ["甲x", "甲xy", "乙x", "乙xy"]
    path = tmp_path / "groups.tsv"
    paraphrase.main([str(path), "--sentences", "4"])
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 * 472
    assert groups_from_rows((a, b) for a, b in rows).sha256() == made_up_groups(4).sha256()
