# _runners/runner.py
