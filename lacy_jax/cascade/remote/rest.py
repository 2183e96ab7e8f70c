"""How long somebody who does not answer is left alone: longer each time, until there is an answer."""

import math
from dataclasses import dataclass

LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Rest:
    """`misses`: questions in a row without an answer. `until`: when one may be asked again, on the caller's clock."""

    misses: int = 0
    until: float = -math.inf

    def missed(self, now: float, *, first: float) -> "Rest":
        """After one more miss. `first`: seconds after the first one, doubled by each further one."""
        return Rest(self.misses + 1, now + min(LONGEST_SECONDS, first * 2.0 ** min(self.misses, 30)))
