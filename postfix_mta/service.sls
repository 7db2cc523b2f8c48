#!yaml
# Postfix and saslauthd enabled and running.
include:
  - .sasl
