# _modules/module.py
