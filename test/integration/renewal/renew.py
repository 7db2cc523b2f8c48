"""
Renew the server's certificates again and again, through the state, in one process.

    renew.py CONFIG_DIRECTORY TIMES ARGUMENTS…

Each of ARGUMENTS is JSON: those of ``mta_cert.managed`` for one pair, taken in turn. Another name in the pair
is the reason for each renewal. Prints JSON: for each time, how long it took, the state's result and comment, the
fingerprint of the certificate on disk and a digest of the key.
"""

import hashlib
import json
import pathlib
import sys
import time

import salt.config
import salt.loader

config, times, pairs = sys.argv[1], int(sys.argv[2]), [json.loads(text) for text in sys.argv[3:]]
opts = salt.config.minion_config(f"{config}/minion")
opts.update(file_client="local", test=False)
opts["grains"] = salt.loader.grains(opts)
opts["pillar"] = {}
context = {}
modules = salt.loader.minion_mods(opts, context=context)
states = salt.loader.states(opts, modules, {}, None, context=context)
done = []
for number in range(times):
    pair = pairs[number % len(pairs)]
    began = time.monotonic()
    result = states["mta_cert.managed"](**pair, alternative_names=[f"r{time.time_ns()}.example.com"])
    done.append(
        {
            "took": time.monotonic() - began,
            "result": result["result"],
            "comment": result["comment"],
            "certificate": modules["mta_cert.inspect"](pair["name"])["sha256"].replace(":", "").lower(),
            "key": hashlib.sha256(pathlib.Path(pair["key"]).read_bytes()).hexdigest(),
        }
    )
print(json.dumps(done))
