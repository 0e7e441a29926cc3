"""More than one process, or more than one machine, for labels and MD.

:func:`mdl_physpretrain.teacher.label` and :func:`mdl_physpretrain.dynamics.simulate` take any
``concurrent.futures.Executor``. Work is cut into units that do not depend
on the executor, so the results are those of one process, bit for bit.
"""

from mdl_physpretrain.executors.distribute import LostWork, distribute
from mdl_physpretrain.executors.processes import Processes, WorkerDied
from mdl_physpretrain.executors.specification import open_executor
from mdl_physpretrain.executors.transfer import SentPotential, receive, send

__all__ = ["LostWork", "Processes", "SentPotential", "WorkerDied", "distribute", "open_executor", "receive", "send"]
