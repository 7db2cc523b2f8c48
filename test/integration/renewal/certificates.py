"""
Make certificates at a moment of the past, with the formula's own modules.

    certificates.py CONFIG_DIRECTORY CA_CERTIFICATE CA_KEY KEY CERTIFICATE DAYS_AGO DAYS

KEY is made where it is not there.
"""

import datetime
import os
import sys

import salt.config
import salt.loader

config, ca, ca_key, key, certificate, ago, days = sys.argv[1:]
opts = salt.config.minion_config(f"{config}/minion")
opts.update(file_client="local", grains={}, pillar={})
modules = salt.loader.minion_mods(opts)
create_key = modules["mta_cert.create_key"]
if not os.path.exists(key):
    create_key(key, key_type="ec")
# The module has imported them.
x509, making = (sys.modules[name] for name in ("_mta_x509", "_mta_x509_make"))
with open(key, "rb") as file:
    public = x509.describe_key(file.read())["public"]
with open(ca, "rb") as issuer, open(ca_key, "rb") as signer:
    made = making.make_certificate(
        public,
        datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=float(ago)),
        int(days),
        {"COMMON_NAME": "mail.example.com"},
        ["mail.example.com"],
        signer.read(),
        issuer=issuer.read(),
    )
with open(certificate, "wb") as file:
    file.write(made)
