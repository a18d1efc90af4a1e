"""The three methods: nlp-zero's lexicons, the article's side of each of its defects, slow twins, degenerate text."""

import gzip
import json
import math
import os
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from entropy import UnigramSegmenter, UserError, WordDiscoverer
from entropy.characters import DIGIT, LETTER
from entropy.corpus import Corpus
from entropy.pruning import prune
from entropy.sequences import Sequences
from entropy.utf8 import code_points

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages: the oracle lies beside its test
import segment_oracle as oracle

GOLDEN = Path(__file__).parents[1] / "golden" / "nlp_zero_laws.json.gz"
SHARED = Path(os.environ.get("DATA_ROOT", Path(__file__).parents[3] / "shared" / "data")).parent / "golden"
TEXTS = st.lists(st.text(alphabet="天地玄黄，", max_size=25), max_size=8)


def runs():
    """(corpus, run) of the small golden file, and of the large one where it is."""
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        small = json.load(file)
    yield from ((small["corpus"], run) for run in small["runs"])
    if (SHARED / "nlp_zero.json.gz").exists():
        with gzip.open(SHARED / "nlp_zero.json.gz", "rt", encoding="utf-8") as file:
            large = json.load(file)
        yield from ((large["corpus"], run) for run in large["word_finder"])


@pytest.mark.parametrize("number", range(6))
def test_same_lexicon_and_segmentation_as_nlp_zero(number):
    found = list(runs())
    if number >= len(found):
        pytest.skip("../shared/golden/nlp_zero.json.gz is absent: its corpus may not be part of the repository")
    corpus, run = found[number]
    discoverer = WordDiscoverer(run["min_proba"], run["min_pmi"], method="entropy", compatible=True, workers=2)
    discoverer.fit(corpus)
    assert discoverer.num_characters_ == run["total_chars"]
    assert int(discoverer.pair_counts_[2].sum()) == run["total_pairs"]
    assert discoverer.words_ == run["words"]
    segmenter = discoverer.segmenter()
    differ = 0
    for tokens in run["tokens"]:
        text = "".join(tokens)
        for stretch in disagreements(segmenter.segment(text), tokens):
            differ += 1
            assert "".join(stretch) in text
            assert whole_unit(stretch), stretch
    assert differ < len(run["tokens"]) * 4


def disagreements(mine, theirs):
    """The shortest stretches between common boundaries that are cut differently."""
    ends = [set(np.cumsum([len(word) for word in side]).tolist()) for side in (mine, theirs)]
    text = "".join(mine)
    for start, end in pairwise([0, *sorted(ends[0] & ends[1])]):
        if {e for e in ends[0] if start < e < end} != {e for e in ends[1] if start < e < end}:
            yield text[start:end]


def whole_unit(stretch):
    """A stretch that nlp-zero cuts inside a number, a Latin word or a run of one mark, which stay whole here."""
    return any(len(u) > 1 for u in oracle.units(stretch)) or any(oracle.kind(c) in (LETTER, DIGIT) for c in stretch)


# What nlp-zero does against its article (numbers as in facts: section 7); here the article's side.


def test_every_round_can_be_followed_by_another():
    """2, 3: its `find` empties the pair counts and leaves plain dictionaries; a second fit here is like the first."""
    texts = ["天地玄黄", "天地", "玄黄"] * 5
    discoverer = WordDiscoverer(1e-3, method="entropy")
    assert discoverer.fit(texts).words_ == discoverer.fit(texts).words_
    assert discoverer.pair_counts_[2].sum() == 25


@pytest.mark.parametrize("method", ["mdl", "entropy", "ngram"])
@pytest.mark.parametrize("texts", [[], [""], ["，。\n "], iter([])])
def test_empty_corpus(method, texts):
    """4: UnboundLocalError there."""
    discoverer = WordDiscoverer(method=method).fit(texts)
    assert discoverer.words_ == discoverer.pruned_ == {}
    assert discoverer.segmenter().segment("天地") == ["天", "地"]


@pytest.mark.parametrize("method", ["mdl", "entropy", "ngram"])
def test_one_character(method):
    assert set(WordDiscoverer(method=method, min_count=1).fit(["天"]).words_) == {"天"}


def test_an_unseen_character_does_not_save_a_candidate():
    """9, 10: a part that is no word has the logarithm -100 there, so nothing around it is ever pruned.

    Here it has its frequency in the text: log 60/960 - log 900/900 - log 60/3900 = 1.4, less than length - 1 = 4.
    """
    texts = ["中国人民"] * 900 + ["中国人民兲"] * 60
    assert WordDiscoverer(1e-3, method="entropy", compatible=True).fit(texts).words_ == {
        "中国人民": 900,
        "中国人民兲": 60,
    }
    mine = WordDiscoverer(1e-3, method="entropy", prune_pmi=None).fit(texts)
    assert mine.words_ == {"中国人民": 960, "兲": 60}
    assert mine.pruned_ == {"中国人民兲": 60}
    assert "中国人民兲" in WordDiscoverer(1e-3, method="entropy", prune_pmi=1.3).fit(texts).words_
    assert "中国人民兲" not in WordDiscoverer(1e-3, method="entropy", prune_pmi=1.5).fit(texts).words_


def test_the_bound_is_the_articles_or_the_codes():
    """11: the article asks for a multi-part PMI above 1, the code for its length - 1.

    log 20/170 - 3 log 50/150 = 1.16.
    """
    texts = ["天地人"] * 20 + ["天", "地", "人"] * 50
    assert "天地人" in WordDiscoverer(1e-3, 0.2, method="entropy").fit(texts).words_
    assert "天地人" not in WordDiscoverer(1e-3, 0.2, method="entropy", prune_pmi=None).fit(texts).words_


def test_no_word_of_1400_characters():
    """12: a repetitive text makes one word of itself there."""
    for method, longest in (("mdl", 6), ("entropy", 20), ("ngram", 20)):
        words = WordDiscoverer(method=method).fit(["哈" * 1400] * 3).words_
        assert max(map(len, words)) <= longest
    assert max(map(len, WordDiscoverer(method="entropy", max_length=3).fit(["天地" * 700]).words_)) <= 3


def test_numbers_stay_whole_and_no_word_is_invented():
    """13: 3.14 becomes 3 . 14 there, and 卡拉O+K one token."""
    segmenter = UnigramSegmenter({"卡拉O": 3, "K": 2, "唱": 1})
    assert segmenter.segment("卡拉O+K唱3.14") == ["卡拉O", "+", "K", "唱", "3.14"]


def test_a_character_is_a_unit_even_if_a_bad_edge_reaches_past_it():
    """14: there the single character is forbidden as soon as any other way, however bad, ends behind it."""
    words = {"甲乙": 1, "乙": 10**6, "丙": 10**6, "甲": 10**6}
    assert UnigramSegmenter(words).segment("甲乙丙") == ["甲", "乙", "丙"]


def test_extension_characters_and_ideographic_zero():
    """17: U+4E00-U+9FA5 only, there."""
    texts = ["二〇二六", "𠮷野家", "㐂喜"] * 30
    words = WordDiscoverer(1e-3, method="entropy").fit(texts).words_
    assert {"二〇二六", "𠮷野家", "㐂喜"} <= set(words)
    assert not {"二〇二六", "𠮷野家", "㐂喜"} & set(
        WordDiscoverer(1e-3, method="entropy", compatible=True).fit(texts).words_
    )


# Slow twins


def slow_candidates(texts, min_prob, min_pmi):
    """Cut and count, in dictionaries."""
    characters = Counter(c for text in texts for c in text if c != "，")
    pairs = Counter((a, b) for text in texts for a, b in pairwise(text) if "，" not in (a, b))
    n, m = sum(characters.values()), sum(pairs.values())
    strong = {
        (a, b)
        for (a, b), count in pairs.items()
        if math.log(count) - math.log(m) > math.log(min_prob)
        and math.log(count / m) - math.log(characters[a] / n) - math.log(characters[b] / n) > min_pmi
    }
    pieces: Counter[str] = Counter()
    for text in texts:
        for run in text.split("，"):
            piece = run[:1]
            for a, b in pairwise(run):
                if (a, b) not in strong:
                    pieces[piece] += 1
                    piece = ""
                piece += b
            if piece:
                pieces[piece] += 1
    total = sum(pieces.values())
    return characters, {piece: count for piece, count in pieces.items() if count > total * min_prob}


def slow_prune(characters, candidates, bound=1.0, costs=None):
    """The article's pruning with the smoothed characters of this package."""
    words = dict(candidates) | {c: candidates.get(c, 0) for w in candidates for c in w}
    unseen = {c: math.log(characters[c] / sum(characters.values())) for c in characters}
    total = sum(words.values())
    for word in sorted(candidates, key=len, reverse=True):
        if len(word) == 1 or not words[word]:
            continue
        count = words[word]
        rest = math.log(total - count) if total > count else math.log(total)
        best = [(0.0, ())] + [(-math.inf, ())] * len(word)
        for i in range(len(word)):
            for j in range(i + 1, len(word) + 1):
                part = word[i:j]
                if part != word and words.get(part, 0) > 0:
                    score = best[i][0] + math.log(words[part]) - rest
                    if score > best[j][0]:
                        best[j] = score, (*best[i][1], part)
            if best[i + 1][0] == -math.inf:
                best[i + 1] = best[i][0] + unseen[word[i]], (*best[i][1], word[i])
        score = math.log(count) - math.log(total)
        for part in best[-1][1]:
            score -= math.log(words[part]) - rest if words[part] > 0 else unseen[part]
        if count * (score - bound) <= (costs or {}).get(word, 0.0):
            words[word] = 0
            total += count * (len(best[-1][1]) - 1)
            for part in best[-1][1]:
                words[part] += count
    return {word: count for word, count in words.items() if count}


@given(TEXTS, st.sampled_from([0.0, 0.01, 0.05]), st.sampled_from([-1.0, 0.31, 1.0]))
@settings(max_examples=150, deadline=None)
def test_entropy_equals_its_slow_twin(texts, min_prob, min_pmi):
    if not any(c != "，" for text in texts for c in text):
        return
    discoverer = WordDiscoverer(min_prob, min_pmi, method="entropy", max_length=100).fit(texts)
    truth = slow_prune(*slow_candidates(texts, min_prob or 1e-99, min_pmi))
    assert discoverer.words_ == truth


@given(st.dictionaries(st.text("天地玄", min_size=1, max_size=4), st.integers(1, 40), min_size=1), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_pruning_with_costs_equals_its_slow_twin(candidates, seed):
    """n (log p / prod p_i - b) > c, the rule of method "mdl" too."""
    characters = Counter({"天": 40, "地": 30, "玄": 20})
    words = candidates | {c: 0 for c in "天地玄" if c not in candidates}
    generator = np.random.default_rng(seed)
    costs = dict(zip(words, generator.uniform(-5, 20, len(words)), strict=True))
    starts = np.concatenate(([0], np.cumsum([len(word) for word in words])))
    codes = code_points("".join(words))
    counts = np.array(list(words.values()))
    unseen = np.log([characters[chr(code)] / 90 for code in codes])
    found = prune(
        Sequences(codes, starts, counts, starts[:-1]), unseen, np.ones(len(words)), np.array([*costs.values()])
    )
    kept = {word: count for word, count in zip(words, found.counts.tolist(), strict=True) if count}
    assert kept == slow_prune(characters, words, 1.0, costs)


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_ngram_equals_its_slow_twin(texts):
    thresholds, order, least = (0.0, 0.3, 0.6, 0.9), 4, 2
    runs_of = [run for text in texts for run in text.split("，") if run]
    grams = Counter(run[i : i + n] for n in range(1, order + 1) for run in runs_of for i in range(len(run) - n + 1))
    grams = Counter({gram: count for gram, count in grams.items() if count >= least})
    total = sum(count for gram, count in grams.items() if len(gram) == 1)

    def weakest(gram):
        return min(math.log(total * grams[gram] / (grams[gram[:k]] * grams[gram[k:]])) for k in range(1, len(gram)))

    solid = {gram for gram in grams if len(gram) > 1 and weakest(gram) >= thresholds[len(gram) - 1] - 0.0}
    pieces: Counter[str] = Counter()
    for run in runs_of:
        joined = [False] * (len(run) + 1)
        for n in range(2, order + 1):
            for i in range(len(run) - n + 1):
                if run[i : i + n] in solid:
                    joined[i + 1 : i + n] = [True] * (n - 1)
        cuts = [0, *(i for i in range(1, len(run)) if not joined[i]), len(run)]
        pieces.update(run[a:b] for a, b in pairwise(cuts))
    pieces = Counter({piece: count for piece, count in pieces.items() if count >= least})

    def good(piece):
        window = min(order, len(piece))
        return len(piece) < 3 or all(piece[k : k + window] in solid for k in range(len(piece) - window + 1))

    found = WordDiscoverer(method="ngram", min_pmi_by_order=thresholds, min_count=least, max_length=99).fit(texts)
    assert found.words_ == {piece: count for piece, count in pieces.items() if good(piece)}
    assert found.pruned_ == {piece: count for piece, count in pieces.items() if not good(piece)}


@pytest.mark.parametrize("method", ["mdl", "entropy", "ngram"])
def test_results_do_not_depend_on_workers_blocks_or_memory(tmp_path, method):
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        texts = json.load(file)["corpus"][:400]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    min_prob = 1e-5 if method == "entropy" else None
    one = WordDiscoverer(min_prob, method=method, workers=1).fit(texts)
    assert len(one.words_) > 500

    class SmallBlocks(Corpus):
        def blocks(self, size=3000, what="reading"):
            return super().blocks(3000, what)

    for corpus, workers, memory in ((iter(texts), 3, None), (path, 2, 1 << 19), (SmallBlocks([path]), 2, 1)):
        other = WordDiscoverer(min_prob, method=method, workers=workers, memory=memory).fit(corpus)
        assert list(other.words_.items()) == list(one.words_.items())
        assert other.pruned_ == one.pruned_


def test_mdl_finds_planted_words_and_shortens_the_description():
    """A text drawn from a small lexicon: the words come back, and the code is shorter than that of characters."""
    generator = np.random.default_rng(0)
    lexicon = [*"天地人", "玄黄", "宇宙", "洪荒", "日月盈", "辰宿列张", "寒来"]
    texts = ["".join(generator.choice(lexicon, 12)) for _ in range(400)]
    discoverer = WordDiscoverer(method="mdl").fit(texts)
    assert set(discoverer.words_) == set(lexicon)
    tried = discoverer.tried_
    assert tried[discoverer.bonus_] == min(tried.values())
    merged = WordDiscoverer(method="mdl", merge=True).fit(["我们的天地"] * 50 + texts)
    assert any(len(word) > 3 for word in merged.words_)


def test_mdl_numbers_are_a_class():
    words = (
        WordDiscoverer(method="mdl").fit([f"在{year}年春" for year in range(1900, 2000)] + ["在春", "年春"] * 30).words_
    )
    assert not any(c in word for word in words for c in "123456789")
    assert any("0" in word for word in words)


def test_sample_is_counted_in_all():
    texts = ["天地玄黄宇宙洪荒，日月盈昃，"[: 7 + i % 7] for i in range(3000)]
    part = WordDiscoverer(method="mdl", sample=5000).fit(texts)
    assert sum(len(w) * n for w, n in part.words_.items()) == sum(len(t.replace("，", "")) for t in texts)


@pytest.mark.parametrize("criterion", ["exact", "approximate"])
def test_criteria(criterion):
    """The approximate gain is positive where PMI exceeds 1; the exact one somewhat earlier (F > F*)."""
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        texts = json.load(file)["corpus"][:300]
    pmi = WordDiscoverer(1e-5, 1.0, method="entropy", prune_pmi=-math.inf).fit(texts).words_
    other = WordDiscoverer(1e-5, method="entropy", criterion=criterion, prune_pmi=-math.inf).fit(texts).words_
    if criterion == "approximate":
        assert other == pmi
    else:
        assert max(map(len, other)) >= max(map(len, pmi))
        assert other != pmi


def test_thresholds_of_the_article_choose_its_method():
    texts = ["天地玄黄", "天地", "玄黄"] * 5
    for options in ({"min_prob": 1e-3}, {"min_pmi": 1.0}, {"compatible": True}):
        assert (
            WordDiscoverer(**options).fit(texts).words_ == WordDiscoverer(method="entropy", **options).fit(texts).words_
        )
    assert WordDiscoverer().chosen_method == "mdl"


def test_scikit_learn_conventions():
    discoverer = WordDiscoverer(1e-4, 2.0, method="entropy")
    assert clone(discoverer).get_params() == discoverer.get_params()
    assert discoverer.fit(["天地"]) is discoverer
    with pytest.raises(UserError, match="call fit"):
        WordDiscoverer().segmenter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method='magic': expected one of mdl, entropy, ngram"),
        ({"min_prob": 1.5}, "min_prob=1.5"),
        ({"criterion": "x"}, "criterion='x'"),
        ({"alphabet": "x"}, "alphabet='x'"),
        ({"max_length": -1}, "max_length"),
        ({"workers": 0}, "workers=0"),
        ({"method": "ngram", "min_pmi_by_order": (1,)}, "2 to 8 thresholds"),
        ({"method": "mdl", "min_pmi": 2.0}, "belong to method='entropy', not to 'mdl'"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(UserError, match=message):
        WordDiscoverer(**options).fit(["天地"])
