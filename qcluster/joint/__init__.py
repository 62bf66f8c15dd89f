"""One plan for experts, links and watts: the three planners' plans, made to fit each other.

``JointPlanner`` reads one snapshot and the other planners' plans of it, finds where they are in
each other's way, and resolves that in one place. The result, ``JointPlan``, holds all three parts
and is stored, explained, compared, applied and restored as one.
"""

from qcluster.joint.config import JointConfig
from qcluster.joint.plan import Conflict, JointPlan
from qcluster.joint.planner import JointPlanner

__all__ = ["Conflict", "JointConfig", "JointPlan", "JointPlanner"]
