"""How fast a model is on this machine in each setting, and how far each agrees with fp32.

Each turn of a setting is a process of its own: one network in memory at a time, and one that dies
takes nothing with it. Knows no terminal; `polyrank bench` prints what it finds.
"""

from polyrank.bench.advice import Recommendation, recommend
from polyrank.bench.measuring import ModelOptions, measure
from polyrank.bench.settings import parse_settings, possible_settings
from polyrank.bench.values import Agreement, Report, Row, Setting, Speed
from polyrank.bench.workload import Workload, synthesise, workload_of

__all__ = [
    "Agreement",
    "ModelOptions",
    "Recommendation",
    "Report",
    "Row",
    "Setting",
    "Speed",
    "Workload",
    "measure",
    "parse_settings",
    "possible_settings",
    "recommend",
    "synthesise",
    "workload_of",
]
