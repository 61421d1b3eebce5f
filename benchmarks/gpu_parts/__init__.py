"""The parts of benchmarks/gpu.py, one a file.

Each has ``NEEDS`` (libraries beside torch), ``COLUMNS`` (of its table, by heading what a row says)
and ``cases``, which gives by name what measures the rows of one case.
"""
