"""The parts of benchmarks/gpu.py, one a file.

Each has ``NEEDS`` (libraries beside torch), ``HEADS`` (the columns of its table), ``line`` (one row
of it) and ``cases``, which gives by name what measures the rows of one case.
"""
