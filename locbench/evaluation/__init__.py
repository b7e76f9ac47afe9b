"""What is measured of a trained network, or of a rule: probes, audit, costs, detection."""
