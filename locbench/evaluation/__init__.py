"""What is measured of a trained network, or of a rule: probes, audit, costs, detection.

Takes networks, rules and data, and returns numbers; knows no run and no record. What makes an
evaluation a run, and leaves its numbers in a record, is its file in `locbench.runs.kinds`.
"""
