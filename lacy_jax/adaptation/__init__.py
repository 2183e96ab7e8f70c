"""A pretrained model learns when to ask: its weights stay, a probe for facts and the row of <CALL> are fitted."""

from typing import Literal

# What is learned: all facts that the rule finds, or those of them that the partner answers right.
Marks = Literal["facts", "answers"]
