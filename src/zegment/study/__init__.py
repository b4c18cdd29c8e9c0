"""The study of the miniature: what each part of both methods costs or gives, with several seeds.

`zegment.study.plan` says what is trained and compared, `running` does it, run by run, and
`report` makes tables and figures of the records that are there.
"""

from zegment.study.plan import Plan, read_plan
from zegment.study.study import Study

__all__ = ["Plan", "Study", "read_plan"]
