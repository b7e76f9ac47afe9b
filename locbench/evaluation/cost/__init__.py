"""What training costs: parameters and multiply-adds, memory of a step, and time.

Counted from modules (`counts`, `operations`), followed on tensors without content (`traced`), or
measured by running steps (`measured`). A count is exact: another number is another network.
"""
