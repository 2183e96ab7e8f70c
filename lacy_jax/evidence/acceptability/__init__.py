"""Which wrong tokens matter (section 3 of the paper): mismatches, a judge of them, and a page."""
