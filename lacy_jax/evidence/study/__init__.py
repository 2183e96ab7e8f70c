"""A study: every method trained and judged alike, over seeds; one command, one page.

plan.py     what is compared: arms, seeds, decodes (configs/study_biographies.py fills it)
runs.py     trains and evaluates what is missing, several processes at once
results.py  the results of all seeds -> means, intervals, paired tests
page.py     the page
"""
