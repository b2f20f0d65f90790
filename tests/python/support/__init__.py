"""What the tests share: shapes, float64 references, element-wise comparisons, guarded buffers.

shapes.py     which group sizes, matrix shapes, routings and dtypes every operator is tried on
reference.py  the meaning of each operator, written as plain loops in float64
compare.py    element-wise bounds, bit equality
buffers.py    canaries around outputs, unaligned and non-contiguous inputs
"""
