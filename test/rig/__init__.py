"""The rig behind ``bin/test``: images, containers as kitchen.yml says, and pytest against them."""

import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "postfix-mta-test"
