"""The laboratory: episodes, grids, ablations, campaigns, costs, and recipes of all figures."""
