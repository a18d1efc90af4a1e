"""Minimum entropy (Jianlin Su, 2018): a lexicon, sentence templates and parse trees from raw text."""

from importlib import import_module
from pathlib import Path

from entropy.kernels import forget_stale

forget_stale(Path(__file__).parent)

_HOME = {
    "Corpus": "corpus",
    "WordDiscoverer": "discoverer",
    "UnigramSegmenter": "segmenter",
    "entropy_per_character": "information",
    "description_length": "information",
    "TemplateMiner": "templates",
    "TemplateParser": "parser",
    "Node": "template_node",
    "slot_classes": "slots",
    "SlotClasses": "slots",
    "UserError": "errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that a command does not pay for what it never calls."""
    if name not in _HOME:
        raise AttributeError(f"module 'entropy' has no attribute {name!r}")
    return getattr(import_module(f"entropy.{_HOME[name]}"), name)
