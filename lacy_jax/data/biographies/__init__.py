"""The closed world: invented people, their biographies, and the grammar that both writes and reads them.

    world.py    who there is, what is true of them, how many biographies each has
    grammar.py  the sentences of words.toml, as templates that are filled and as patterns that are matched
    writing.py  a person -> the text of a biography
    reading.py  a text -> its claims, fillers and sentences that do not parse; the marks of an oracle
    facts.py    the table of facts for the database partner

docs/biographies.md says what the world is made for.
"""
