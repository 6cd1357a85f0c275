"""What exists: devices, links, cells, networks, channels, traces and churn."""

from airloom.network.access import CellPlan, cells
from airloom.network.cell import BlockFading, Cell
from airloom.network.churn import AlwaysOn, Churn, Markov, TraceChurn, Without
from airloom.network.device import Capacitance, Device, RadioEnergy, Work
from airloom.network.link import Link
from airloom.network.load import Idle, Load, MarkovLoad, TraceLoad
from airloom.network.network import Network, Place
from airloom.network.topology import Level, chain, lab, mesh, ring, star, tree, with_peers
from airloom.network.trace import Trace

__all__ = [
    "AlwaysOn",
    "BlockFading",
    "Capacitance",
    "Cell",
    "CellPlan",
    "Churn",
    "Device",
    "Idle",
    "Level",
    "Link",
    "Load",
    "Markov",
    "MarkovLoad",
    "Network",
    "Place",
    "RadioEnergy",
    "Trace",
    "TraceChurn",
    "TraceLoad",
    "Without",
    "Work",
    "cells",
    "chain",
    "lab",
    "mesh",
    "ring",
    "star",
    "tree",
    "with_peers",
]
