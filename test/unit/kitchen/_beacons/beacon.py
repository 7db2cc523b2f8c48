# _beacons/beacon.py
