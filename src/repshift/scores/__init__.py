"""Importance scores, one a file. A new one is its file and a line here."""

from repshift.scores.attention_entropy import AttentionEntropy as AttentionEntropy
from repshift.scores.base import Need as Need
from repshift.scores.base import Score as Score
from repshift.scores.base import Snapshots as Snapshots
from repshift.scores.class_attention import ClassAttention as ClassAttention
from repshift.scores.clipped_activation import ClippedActivation as ClippedActivation
from repshift.scores.column_attention import ColumnAttention as ColumnAttention
from repshift.scores.greedy import Greedy as Greedy
from repshift.scores.grid import Grid as Grid
from repshift.scores.key_norm import KeyNorm as KeyNorm
from repshift.scores.last_query import LastQuery as LastQuery
from repshift.scores.mean_distance import MeanDistance as MeanDistance
from repshift.scores.random import Random as Random
from repshift.scores.redundancy import Redundancy as Redundancy
from repshift.scores.relevance import Relevance as Relevance
from repshift.scores.reverse import Reverse as Reverse
from repshift.scores.shift import Shift as Shift
from repshift.scores.stream_norm import StreamNorm as StreamNorm
from repshift.scores.temporal import Temporal as Temporal
