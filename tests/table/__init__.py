"""The one table of operators: a row an operator, from which all properties against torch follow."""

from table import learning, pointwise, shape, windows
from table.spec import Row

ROWS: list[Row] = [*pointwise.ROWS, *shape.ROWS, *windows.ROWS, *learning.ROWS]
BY_NAME = {row.name: row for row in ROWS}
