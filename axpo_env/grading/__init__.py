"""Answer checks: text in, verdict out. One module per kind of answer; data sets put them together.

    extract   where the answer stands                choice    letters and options
    chartqa   relaxed and strict accuracy            numeric   numbers with units, absolute tolerance
    units     known ones, "2 h 30 min"               text      exact, aliases, token F1
    free      by rule, else the judge's              judge     what only a model can tell
    maths     equality of mathematics                shapes    ratios, times, congruences, and items: lists, matrices
    latex     how formulas are typed                 maths_pool, maths_worker   where they are worked out
    grade     the verdict

What was not read whole is not settled: it is never right. What only a judge could tell, and there is none, is
ungraded: `Grade.correct` is None, never False.
"""

from axpo_env.grading.chartqa import grade_chartqa, relaxed_match, strict_match, to_number
from axpo_env.grading.extract import extract_answer
from axpo_env.grading.grade import Grade, make_grade

__all__ = [
    "Grade",
    "extract_answer",
    "grade_chartqa",
    "make_grade",
    "relaxed_match",
    "strict_match",
    "to_number",
]
