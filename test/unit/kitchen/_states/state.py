# _states/state.py
