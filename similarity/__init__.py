"""Sentence similarity by groups of synonyms (Su 2018, archives/5743): train an encoder, answer from an index."""

from similarity.encoder import Architecture, SentenceEncoder
from similarity.faq import FaqIndex, Match
from similarity.groups import Groups, groups_from_pairs
from similarity.retrieval import retrieval_accuracy
from similarity.text import Vocabulary

__all__ = [
    "Architecture",
    "FaqIndex",
    "Groups",
    "Match",
    "SentenceEncoder",
    "Vocabulary",
    "groups_from_pairs",
    "retrieval_accuracy",
]
