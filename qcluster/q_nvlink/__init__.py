"""NVLink and NVSwitch fabrics: GPU choice, placement, routes, rounds, each with its bound."""

from __future__ import annotations

from qcluster.q_nvlink.alltoall import Schedule, schedule_all_to_all
from qcluster.q_nvlink.cluster_tree import ClusterTree
from qcluster.q_nvlink.collectives import (
    Collective,
    Simulation,
    collective_bound,
    plan_collective,
    simulate,
)
from qcluster.q_nvlink.coloring import Coloring, EdgeColoring, color_edges, color_groups
from qcluster.q_nvlink.config import NVLinkConfig
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode
from qcluster.q_nvlink.formats import load_fabric, load_tree, parse_fabric, parse_node_link
from qcluster.q_nvlink.gangs import Gang, GangPlan, place_gangs
from qcluster.q_nvlink.mapping import Mapping, place_ranks
from qcluster.q_nvlink.plan import NVLinkPlan, plan_fabric
from qcluster.q_nvlink.planner import NVLinkPlanner
from qcluster.q_nvlink.recommend import recommend
from qcluster.q_nvlink.select import Selection, cut_bandwidth, select_gpus

__all__ = [
    "ClusterTree",
    "Collective",
    "Coloring",
    "EdgeColoring",
    "Fabric",
    "FabricLink",
    "FabricNode",
    "Gang",
    "GangPlan",
    "Mapping",
    "NVLinkConfig",
    "NVLinkPlan",
    "NVLinkPlanner",
    "Schedule",
    "Selection",
    "Simulation",
    "collective_bound",
    "color_edges",
    "color_groups",
    "cut_bandwidth",
    "load_fabric",
    "load_tree",
    "parse_fabric",
    "parse_node_link",
    "place_gangs",
    "place_ranks",
    "plan_collective",
    "plan_fabric",
    "recommend",
    "schedule_all_to_all",
    "select_gpus",
    "simulate",
]
