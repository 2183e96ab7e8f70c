"""The partner "world": a database of the closed world's facts, for models whose corpus is the closed world.

world                                     every fact, every wording
world:known=0.9,wordings=0.5,wrong=0.05   shares of the facts and of the wordings; a share of its answers is wrong
world:relations=birth_date+university     facts of these relations only
world:known=0.9,changed=1                 the facts as they have become since the biographies were written
"""

from lacy_jax.cascade.partners import Wanted
from lacy_jax.cascade.partners.database import Database
from lacy_jax.cascade.partners.facts import open_facts
from lacy_jax.errors import PartnerError
from lacy_jax.evidence.closed_world.world.facts import facts_file, read_knowledge
from lacy_jax.paths import is_bucket
from lacy_jax.presets import CLOSED_WORLD


def from_spec(wanted: Wanted) -> Database:
    """The partner of a spec. Raises `PartnerError` where it is none, or fits neither corpus nor folder."""
    knowledge = read_knowledge(wanted.argument)
    if wanted.corpus.name not in CLOSED_WORLD:
        raise PartnerError(
            f"partner {wanted.spec}: it knows the people of the corpus biographies, this is {wanted.corpus.name}"
        )
    if is_bucket(wanted.directory):
        raise PartnerError(f"partner {wanted.spec}: its facts lie on a disk, not in {wanted.directory}")
    path = facts_file(wanted.corpus.biographies, knowledge, directory=wanted.directory)
    return Database(open_facts(str(path), directory=wanted.directory), span=wanted.span, name=wanted.spec)
