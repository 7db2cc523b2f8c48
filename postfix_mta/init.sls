#!yaml
# The whole mail server, in the how-to's order.
include:
  - .settings
  - .package
  - .certificate
  - .sasl
  - .config
  - .aliases
  - .firewall
  - .verify
  - .watch
