"""What people see of runs, studies and comparisons: figures, tables, one HTML page each."""
