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
from qcluster.q_nvlink.contention import ContentionModel, History, fit_contention
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode
from qcluster.q_nvlink.formats import load_fabric, load_tree, parse_fabric, parse_node_link
from qcluster.q_nvlink.gangs import Gang, GangPlan, place_gangs
from qcluster.q_nvlink.mapping import Mapping, place_ranks
from qcluster.q_nvlink.packing import Packing, pack_gangs
from qcluster.q_nvlink.partition import Partition, partition_ranks
from qcluster.q_nvlink.plan import Models, NVLinkPlan, plan_fabric
from qcluster.q_nvlink.planner import NVLinkPlanner
from qcluster.q_nvlink.recommend import recommend
from qcluster.q_nvlink.rl import FlowEnv, RoutePolicy, fit_routes
from qcluster.q_nvlink.select import Selection, cut_bandwidth, select_gpus
from qcluster.q_nvlink.train import train_classifier, train_rl

__all__ = [
    "ClusterTree",
    "Collective",
    "Coloring",
    "ContentionModel",
    "EdgeColoring",
    "Fabric",
    "FabricLink",
    "FabricNode",
    "FlowEnv",
    "Gang",
    "GangPlan",
    "History",
    "Mapping",
    "Models",
    "NVLinkConfig",
    "NVLinkPlan",
    "NVLinkPlanner",
    "Packing",
    "Partition",
    "RoutePolicy",
    "Schedule",
    "Selection",
    "Simulation",
    "collective_bound",
    "color_edges",
    "color_groups",
    "cut_bandwidth",
    "fit_contention",
    "fit_routes",
    "load_fabric",
    "load_tree",
    "pack_gangs",
    "parse_fabric",
    "parse_node_link",
    "partition_ranks",
    "place_gangs",
    "place_ranks",
    "plan_collective",
    "plan_fabric",
    "recommend",
    "schedule_all_to_all",
    "select_gpus",
    "simulate",
    "train_classifier",
    "train_rl",
]
