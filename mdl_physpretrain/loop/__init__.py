"""The closed loop without reference calculations: a network is examined, and the teacher labels where it fails."""

from mdl_physpretrain.loop.closed import LoopResult, close_loop, round_table
from mdl_physpretrain.loop.rounds import LoopData, Round, run_round

__all__ = ["LoopData", "LoopResult", "Round", "close_loop", "round_table", "run_round"]
