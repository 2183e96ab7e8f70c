"""The closed world: invented people, their biographies, and the grammar that both writes and reads them.

    world.py    who there is, what is true of them, how many biographies each has
    grammar.py  the sentences of words.toml, as templates that are filled and as patterns that are matched
    writing.py  a person -> the text of a biography
    reading.py  a text -> its claims, fillers and sentences that do not parse
    corpus.py   the corpus biographies; oracle.py: the annotator that knows what they state
    told.py     the corpus biographies_told, with facts before each biography
    facts.py    the table of facts for the database partner, as changed, wrong or incomplete as is asked
    partner.py  the partner world, which answers from such a table

docs/biographies.md says what the world is made for.
"""

from lacy_jax.evidence.closed_world.world.facts import Knowledge, changed_world, facts_file, known_facts, read_knowledge
from lacy_jax.evidence.closed_world.world.grammar import RELATIONS, words_text
from lacy_jax.evidence.closed_world.world.reading import Sentence, read_sentences
from lacy_jax.evidence.closed_world.world.told import told_headings
from lacy_jax.evidence.closed_world.world.world import GROUPS, Group, Person, World, make_world
from lacy_jax.evidence.closed_world.world.writing import Biography, biographies, write_biography

__all__ = [
    "GROUPS",
    "RELATIONS",
    "Biography",
    "Group",
    "Knowledge",
    "Person",
    "Sentence",
    "World",
    "biographies",
    "changed_world",
    "facts_file",
    "known_facts",
    "make_world",
    "read_knowledge",
    "read_sentences",
    "told_headings",
    "words_text",
    "write_biography",
]
