"""The judge: which objects a picture shows, from its pixels alone, and whether a prompt asked so.

It knows the small language of `lab.scenes` (eight colours, eight shapes, plain grounds) and
works by rules, so that nothing that was trained marks what was trained. Its own accuracy is
measured on rendered scenes, by `lab.evaluation.judging`.
"""

from __future__ import annotations

from lab.judge.judgement import JudgedObject, Judgement, judge_picture
from lab.judge.verdict import Verdict, stands, verdict

__all__ = ["JudgedObject", "Judgement", "Verdict", "judge_picture", "stands", "verdict"]
