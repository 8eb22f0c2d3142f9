"""How weights are changed: parameter groups, Muon, averages, a budget of time."""
