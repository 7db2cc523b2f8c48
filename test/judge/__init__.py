"""The judge, measured: what the formula says about changes, against what real mail says."""
